//! Owns what a command shows while it works, on standard error: a moving line on a terminal, nothing or plain lines elsewhere. And
//! how numbers, sizes and times are written. Refuses to know what is being done.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliError;

const TICK: Duration = Duration::from_millis(120);

/// A piece of work as the user sees it.
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
}

impl Progress {
    /// Work of unknown length.
    #[must_use]
    pub fn start(label: impl Into<String>) -> Self {
        Self::build(label.into(), None)
    }

    /// Work of a known length in rows (or steps).
    #[must_use]
    pub fn start_of(label: impl Into<String>, total: u64) -> Self {
        Self::build(label.into(), Some(total))
    }

    /// Work that shows nothing, as when the result itself goes to the terminal.
    #[must_use]
    pub fn hidden() -> Self {
        Self { bar: None, label: String::new() }
    }

    fn build(label: String, total: Option<u64>) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None, label };
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let template = match total {
            Some(_) => "{prefix}  {bar:28} {percent:>3} %  {msg}",
            None => "{spinner} {prefix}  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.clone());
        bar.enable_steady_tick(TICK);
        Self { bar: Some(bar), label }
    }

    /// How far it is: rows and bytes since the start.
    pub fn at(&self, rows: u64, bytes: u64) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(rows);
        let seconds = bar.elapsed().as_secs_f64();
        let rate = if seconds > 0.5 { format!(", {}/s", size((bytes as f64 / seconds) as u64)) } else { String::new() };
        bar.set_message(format!("{} rows, {}{rate}", count(rows), size(bytes)));
    }

    /// Does something with the moving line out of the way.
    pub fn suspend<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    /// Takes the moving line away, and leaves a line with the label and what came of it. That line is printed without a terminal too.
    pub fn done(self, outcome: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}  {outcome}", self.label);
    }
}

/// An error leaves by `?`: its text must not stand behind a moving line.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line to standard output. `println!` would panic when its reader has gone.
///
/// # Errors
/// When nothing can be written there.
pub fn say(line: impl Display) -> Result<(), CliError> {
    writeln!(io::stdout(), "{line}").map_err(CliError::io("write to standard output"))
}

/// A number with its thousands apart: `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `1,234 rows`.
#[must_use]
pub fn rows(number: u64) -> String {
    format!("{} row{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes in the unit that reads best, decimal: `12.3 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A time in the unit that reads best: `4.2 ms`, `310 ms`, `2.41 s`, `3 min 20 s`.
#[must_use]
pub fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..59_995.0 => format!("{:.2} s", ms / 1000.0),
        _ => {
            let seconds = duration.as_secs_f64().round() as u64;
            format!("{} min {} s", seconds / 60, seconds % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!((rows(1).as_str(), rows(2).as_str()), ("1 row", "2 rows"));
    }

    #[test]
    fn sizes_change_their_unit() {
        for (bytes, text) in
            [(999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (12_345_678, "12.3 MB"), (5_000_000_000, "5.0 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_change_their_unit() {
        for (ms, text) in [(4, "4.0 ms"), (310, "310 ms"), (2410, "2.41 s"), (59_996, "1 min 0 s"), (200_000, "3 min 20 s")] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }
}
