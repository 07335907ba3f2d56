//! Owns tables as a terminal shows them: columns aligned, numbers to the right, a bounded number of rows at a time. Refuses to let a
//! cell's bytes steer the terminal.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Longer cells are cut, with `…` at their end: one wide value must not pad a thousand rows.
const MAX_CELL: usize = 1000;

/// Rows that are held to find the widths of the columns.
const PAGE_ROWS: usize = 1000;

const GAP: &str = "  ";

/// How much of a result is shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Rows; the rest is only counted. `None` for all.
    pub rows: Option<u64>,
    /// Characters per line.
    pub width: Option<usize>,
}

/// Writes batches as tables of up to 1,000 rows each.
pub struct TableWriter<W> {
    out: W,
    schema: SchemaRef,
    shown: Shown,
    page: Vec<Vec<String>>,
    /// Rows shown or waiting in the page.
    taken: u64,
    seen: u64,
    printed_a_page: bool,
}

impl<W: Write> TableWriter<W> {
    /// A table with these columns.
    pub fn new(out: W, schema: SchemaRef, shown: Shown) -> Self {
        Self { out, schema, shown, page: Vec::new(), taken: 0, seen: 0, printed_a_page: false }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// When they cannot be formatted or written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let wanted = self.shown.rows.map_or(u64::MAX, |rows| rows - self.taken);
        let rows = usize::try_from(wanted).unwrap_or(usize::MAX).min(batch.num_rows());
        self.seen += batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let options = FormatOptions::new().with_null("NULL").with_duration_format(DurationFormat::Pretty);
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..rows {
            let cells = columns.iter().map(|column| column.value(row).try_to_string().map(|text| printable(&text)));
            self.page.push(cells.collect::<Result<_, _>>()?);
            self.taken += 1;
            if self.page.len() == PAGE_ROWS {
                self.print_page()?;
            }
        }
        Ok(())
    }

    /// Prints what is left, and how many rows there were.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        if !self.page.is_empty() || !self.printed_a_page {
            self.print_page()?;
        }
        let total = super::super::progress::rows(self.seen);
        match self.seen - self.taken {
            0 => writeln!(self.out, "({total})")?,
            more => {
                let more = super::super::progress::count(more);
                writeln!(self.out, "({total}; {more} more not shown: --all shows them, --output FILE writes them to a file)")?;
            }
        }
        self.out.flush()
    }

    fn print_page(&mut self) -> io::Result<()> {
        let page = std::mem::take(&mut self.page);
        let names: Vec<String> = self.schema.fields().iter().map(|field| printable(field.name())).collect();
        let mut widths: Vec<usize> = names.iter().map(|name| name.width()).collect();
        for row in &page {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if self.printed_a_page {
            writeln!(self.out)?;
        }
        self.printed_a_page = true;
        let right: Vec<bool> = self.schema.fields().iter().map(|field| is_number(field.data_type())).collect();
        self.print_line(&names, &widths, &right)?;
        let rule: Vec<String> = widths.iter().map(|&width| "─".repeat(width)).collect();
        self.print_line(&rule, &widths, &right)?;
        for row in &page {
            self.print_line(row, &widths, &right)?;
        }
        Ok(())
    }

    fn print_line(&mut self, cells: &[String], widths: &[usize], right: &[bool]) -> io::Result<()> {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 {
                line.push_str(GAP);
            }
            let padding = " ".repeat(widths[at].saturating_sub(cell.width()));
            if right[at] {
                line.push_str(&padding);
            }
            line.push_str(cell);
            if !right[at] {
                line.push_str(&padding);
            }
        }
        let line = line.trim_end();
        match self.shown.width {
            Some(width) => writeln!(self.out, "{}", cut(line, width)),
            None => writeln!(self.out, "{line}"),
        }
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// Text without what would steer a terminal, and not above the longest cell.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MAX_CELL));
    for c in cut(text, MAX_CELL).chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Text of at most this many columns; `…` stands for what is cut off.
fn cut(text: &str, width: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= width || text.width() <= width {
        return text.into();
    }
    let mut used = 0;
    let mut end = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used + 1 > width {
            break;
        }
        end = at + c.len_utf8();
    }
    format!("{}…", &text[..end]).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray};

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let names: StringArray = (0..rows).map(|n| (n != 1).then(|| format!("n{n}"))).collect();
        let values = Int64Array::from_iter_values((0..rows).map(|n| n * 1000));
        RecordBatch::try_from_iter([("name", Arc::new(names) as ArrayRef), ("value", Arc::new(values) as ArrayRef)]).unwrap()
    }

    fn table(batches: &[RecordBatch], rows: Option<u64>, width: Option<usize>) -> String {
        let mut out = Vec::new();
        let mut writer = TableWriter::new(&mut out, batches[0].schema(), Shown { rows, width });
        for batch in batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_stand_left_and_numbers_right() {
        assert_eq!(table(&[batch(2)], None, None), "name  value\n────  ─────\nn0        0\nNULL   1000\n(2 rows)\n");
    }

    #[test]
    fn rows_above_the_limit_are_counted_over_all_batches() {
        let text = table(&[batch(2), batch(2), batch(3)], Some(3), None);
        assert_eq!(text.lines().count(), 2 + 3 + 1);
        assert!(text.ends_with("(7 rows; 4 more not shown: --all shows them, --output FILE writes them to a file)\n"), "{text}");
    }

    #[test]
    fn a_long_result_comes_in_pages_with_their_own_heads() {
        let text = table(&[batch(2500)], None, None);
        assert_eq!(text.matches("name").count(), 3);
        assert!(text.ends_with("(2,500 rows)\n"));
    }

    #[test]
    fn an_empty_result_shows_its_columns() {
        assert_eq!(table(&[batch(0)], None, None), "name  value\n────  ─────\n(0 rows)\n");
    }

    #[test]
    fn lines_are_cut_at_the_wanted_width() {
        let text = table(&[batch(1)], None, Some(6));
        assert_eq!(text.lines().next(), Some("name …"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }

    #[test]
    fn wide_characters_count_as_two_columns() {
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 6), "日本語");
    }

    #[test]
    fn decimals_show_their_scale() {
        let values = Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 2).unwrap();
        let batch = RecordBatch::try_from_iter([("d", Arc::new(values) as ArrayRef)]).unwrap();
        assert!(table(&[batch], None, None).contains("123.45"));
    }
}
