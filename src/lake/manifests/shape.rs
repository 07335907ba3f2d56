//! Owns how Avro values lie in bytes, by their schema, and passing over them: each is counted and none is built. Refuses to read what they
//! say.

use apache_avro::Schema;
use apache_avro::schema::{RecordSchema, UnionSchema};
use serde_json::Value;

use super::Unreadable;
use super::container::{long, skip, take};

/// How deep values may lie in each other. Those of a manifest are five deep.
const MAX_DEPTH: usize = 32;

/// Values of at most so many bytes are small.
const SMALL_BYTES: usize = 16;

/// The record in a manifest's record that is looked into.
const INNER: &str = "data_file";

/// The place of a shape.
pub(super) type Place = usize;

/// How values of one schema lie in bytes.
enum Shape {
    /// So many bytes, or none.
    Bytes(usize),
    /// A number of variable length.
    Number,
    /// A length and so many bytes.
    Text,
    /// Blocks of items; those of a map have a name each.
    List { item: Place, named: bool },
    /// The number of a variant, and its value.
    OneOf(Vec<Place>),
    /// One value after the other.
    All(Vec<Place>),
}

/// What is done with a field of a record.
pub(super) enum Step {
    Keep(Place),
    /// May be missing, and not be small.
    LeaveOut {
        variants: Vec<Place>,
        null: usize,
    },
    Into(Vec<Step>),
}

/// How many values may still come.
pub(super) struct Budget {
    pub(super) kept: u64,
    pub(super) passed: u64,
}

/// Why a value is not passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// It does not lie there.
    Broken,
    Deep,
    Kept,
    Passed,
}

impl Spent {
    /// The same, where it was this budget that is spent.
    pub(super) fn or(self, budget: Self) -> Self {
        if self == Self::Passed { budget } else { self }
    }
}

/// The shapes of a schema.
pub(super) struct Shapes {
    all: Vec<Shape>,
    steps: Vec<Step>,
}

impl Shapes {
    /// Those of a file's records, by its schema.
    pub(super) fn of(schema: &Value) -> Result<Self, Unreadable> {
        let schema = Schema::parse(schema).map_err(|_| Unreadable::Broken)?;
        let Schema::Record(record) = &schema else { return Err(Unreadable::Broken) };
        let mut shapes = Self { all: Vec::new(), steps: Vec::new() };
        shapes.steps = shapes.steps_of(record, true)?;
        Ok(shapes)
    }

    /// What is done with the fields of a record.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn steps_of(&mut self, record: &RecordSchema, is_outer: bool) -> Result<Vec<Step>, Unreadable> {
        let mut steps = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            steps.push(match &field.schema {
                Schema::Record(inner) if is_outer && field.name == INNER => Step::Into(self.steps_of(inner, false)?),
                Schema::Union(union) => self.step_of(union)?,
                schema => Step::Keep(self.add(schema, 0)?),
            });
        }
        Ok(steps)
    }

    fn step_of(&mut self, union: &UnionSchema) -> Result<Step, Unreadable> {
        let variants = self.add_all(union.variants(), 0)?;
        let is_small = |place: &Place| match self.all[*place] {
            Shape::Bytes(length) => length <= SMALL_BYTES,
            Shape::Number => true,
            _ => false,
        };
        let null = union.variants().iter().position(|variant| matches!(variant, Schema::Null));
        Ok(match null.filter(|_| !variants.iter().all(is_small)) {
            Some(null) => Step::LeaveOut { variants, null },
            None => {
                self.all.push(Shape::OneOf(variants));
                Step::Keep(self.all.len() - 1)
            }
        })
    }

    fn add_all<'s>(&mut self, schemas: impl IntoIterator<Item = &'s Schema>, depth: usize) -> Result<Vec<Place>, Unreadable> {
        schemas.into_iter().map(|schema| self.add(schema, depth)).collect()
    }

    fn add(&mut self, schema: &Schema, depth: usize) -> Result<Place, Unreadable> {
        if depth > MAX_DEPTH {
            return Err(Unreadable::Deep);
        }
        let deeper = depth + 1;
        let shape = match schema {
            Schema::Null => Shape::Bytes(0),
            Schema::Boolean => Shape::Bytes(1),
            Schema::Float => Shape::Bytes(4),
            Schema::Double => Shape::Bytes(8),
            Schema::Duration => Shape::Bytes(12),
            Schema::Fixed(fixed) => Shape::Bytes(fixed.size),
            Schema::Int
            | Schema::Long
            | Schema::Enum(_)
            | Schema::Date
            | Schema::TimeMillis
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Shape::Number,
            Schema::Bytes | Schema::String | Schema::Uuid | Schema::BigDecimal => Shape::Text,
            Schema::Decimal(decimal) => Shape::All(vec![self.add(&decimal.inner, deeper)?]),
            Schema::Array(array) => Shape::List { item: self.add(&array.items, deeper)?, named: false },
            Schema::Map(map) => Shape::List { item: self.add(&map.types, deeper)?, named: true },
            Schema::Union(union) => Shape::OneOf(self.add_all(union.variants(), deeper)?),
            Schema::Record(record) => Shape::All(self.add_all(record.fields.iter().map(|field| &field.schema), deeper)?),
            // The decoder looks a name up in the schema of its own, whatever is called so here.
            Schema::Ref { name } if name.name.starts_with("decimal_") || name.name.starts_with("fixed_") => {
                return Err(Unreadable::Unsupported("several columns of one decimal or fixed type"));
            }
            Schema::Ref { .. } => return Err(Unreadable::Broken),
        };
        self.all.push(shape);
        Ok(self.all.len() - 1)
    }

    /// Goes behind a value. Each value takes one of what is left, a list one and its items, `Passed` when there is none.
    pub(super) fn pass(&self, at: Place, rest: &mut &[u8], depth: usize, left: &mut u64) -> Result<(), Spent> {
        *left = left.checked_sub(1).ok_or(Spent::Passed)?;
        if depth > MAX_DEPTH {
            return Err(Spent::Deep);
        }
        let deeper = depth + 1;
        match &self.all[at] {
            Shape::Bytes(length) => skip(rest, *length).map(drop).ok_or(Spent::Broken),
            Shape::Number => long(rest).map(drop).ok_or(Spent::Broken),
            Shape::Text => take(rest).map(drop).ok_or(Spent::Broken),
            Shape::All(parts) => parts.iter().try_for_each(|part| self.pass(*part, rest, deeper, left)),
            Shape::OneOf(variants) => {
                let number = long(rest).and_then(|number| usize::try_from(number).ok());
                let variant = number.and_then(|number| variants.get(number)).ok_or(Spent::Broken)?;
                self.pass(*variant, rest, deeper, left)
            }
            Shape::List { item, named } => loop {
                let items = long(rest).ok_or(Spent::Broken)?;
                if items == 0 {
                    return Ok(());
                }
                if items < 0 {
                    // Its bytes; to go through them is the only way to count what is in them.
                    long(rest).ok_or(Spent::Broken)?;
                }
                for _ in 0..items.unsigned_abs() {
                    if *named {
                        take(rest).ok_or(Spent::Broken)?;
                    }
                    self.pass(*item, rest, deeper, left)?;
                }
            },
        }
    }
}
