//! Owns cutting manifests and lists of them down to what is read of them, before they are parsed: what may be missing in a record and is
//! not small is left out, above all the statistics of columns. Parsed, a value of two bytes takes hundreds, and a schema may make values
//! of no bytes at all; all of them are counted here, without being built. Refuses to know what is left.

use super::Unreadable;
use super::container::{Container, long, put_long};
use super::head::Head;
use super::shape::{Budget, Shapes, Spent, Step};

/// How much of a file is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of the head.
    pub(super) head: usize,
    /// Bytes of all blocks, unpacked.
    pub(super) unpacked: u64,
    /// Bytes that are left of them.
    pub(super) left: u64,
    /// Records. Parsed, each takes a kilobyte, however little it takes in the file.
    pub(super) records: u64,
    /// Values that are left in them, all together.
    pub(super) values: u64,
    /// And in one: it is a tree of values before it is what is read of it.
    pub(super) of_record: u64,
    /// Values of them that are passed over.
    pub(super) passed: u64,
}

/// Records are written in blocks of about so many bytes.
const BLOCK_BYTES: usize = 256 << 10;

/// The same file, not packed, with less in each record.
///
/// # Errors
/// When it is broken, or above one of the limits.
pub(super) fn slimmed(file: &[u8], limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let mut container = Container::open(file, limits.head)?;
    let Head { schema, filled_in } = Head::read(&container)?;
    let shapes = Shapes::of(&schema)?;
    let mut made = Made { file: container.anew(), records: Vec::new(), in_block: 0 };
    let (mut unpacked, mut records) = (0, 0);
    let mut budget = Budget { kept: limits.values, passed: limits.passed };
    loop {
        let block = container.next(limits.unpacked - unpacked).map_err(|trouble| match trouble {
            Unreadable::Bytes(_) => Unreadable::Bytes(limits.unpacked),
            other => other,
        })?;
        let Some(block) = block else { break };
        unpacked += block.bytes.len() as u64;
        records += block.records;
        if records > limits.records {
            return Err(Unreadable::Records(limits.records));
        }
        let mut rest = &block.bytes[..];
        for _ in 0..block.records {
            slim_record(&shapes, &mut rest, &mut made.records, &mut budget, &limits)?;
            budget.kept = budget.kept.checked_sub(filled_in).ok_or(Unreadable::Values(limits.values))?;
            made.in_block += 1;
            if made.bytes() > limits.left {
                return Err(Unreadable::Left(limits.left));
            }
            made.end_block(&container, BLOCK_BYTES);
        }
        if !rest.is_empty() {
            return Err(Unreadable::Broken);
        }
    }
    made.end_block(&container, 0);
    Ok(made.file)
}

fn slim_record(
    shapes: &Shapes,
    rest: &mut &[u8],
    to: &mut Vec<u8>,
    budget: &mut Budget,
    limits: &Limits,
) -> Result<(), Unreadable> {
    let most = budget.kept.min(limits.of_record);
    let mut of_record = Budget { kept: most, passed: budget.passed };
    slim(shapes, shapes.steps(), rest, to, &mut of_record).map_err(|spent| match spent {
        Spent::Broken => Unreadable::Broken,
        Spent::Deep => Unreadable::Deep,
        Spent::Passed => Unreadable::Values(limits.passed),
        Spent::Kept if most < limits.of_record => Unreadable::Values(limits.values),
        Spent::Kept => Unreadable::OfRecord(limits.of_record),
    })?;
    budget.kept -= most - of_record.kept;
    budget.passed = of_record.passed;
    Ok(())
}

/// Copies what is kept of a record.
fn slim(shapes: &Shapes, steps: &[Step], rest: &mut &[u8], to: &mut Vec<u8>, budget: &mut Budget) -> Result<(), Spent> {
    for step in steps {
        match step {
            Step::Keep(shape) => {
                let whole = *rest;
                shapes.pass(*shape, rest, 0, &mut budget.kept).map_err(|spent| spent.or(Spent::Kept))?;
                to.extend_from_slice(&whole[..whole.len() - rest.len()]);
            }
            Step::LeaveOut { variants, null } => {
                let variant = usize::try_from(long(rest).ok_or(Spent::Broken)?).ok().and_then(|at| variants.get(at));
                shapes.pass(*variant.ok_or(Spent::Broken)?, rest, 0, &mut budget.passed)?;
                budget.kept = budget.kept.checked_sub(1).ok_or(Spent::Kept)?;
                put_long(to, *null);
            }
            Step::Into(steps) => slim(shapes, steps, rest, to, budget)?,
        }
    }
    Ok(())
}

/// A file in the making.
struct Made {
    file: Vec<u8>,
    /// Of the block that is being made.
    records: Vec<u8>,
    in_block: usize,
}

impl Made {
    fn bytes(&self) -> u64 {
        (self.file.len() + self.records.len()) as u64
    }

    /// Ends a block that is longer than so many bytes.
    fn end_block(&mut self, container: &Container<'_>, above: usize) {
        if self.in_block > 0 && self.records.len() >= above {
            container.put(&mut self.file, self.in_block, &self.records);
            self.records.clear();
            self.in_block = 0;
        }
    }
}
