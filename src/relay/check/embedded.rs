//! Owns the steps of an embedded catalog: its directory, its lists, a table and a file of it. Refuses to make the directory, which
//! serving does.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::{Fault, Found, Record, Step, Subject, catalog, files};

/// Those behind the first.
const STEPS: [Step; 4] = [Step::List, Step::Load, Step::Credentials, Step::Read];

pub(super) async fn run(subject: &Subject, path: &Path, record: &mut Record<'_>) {
    let began = Instant::now();
    let shown = path.display().to_string();
    if let Err(found) = directory(subject, path) {
        let goes_on = record.note(Step::Reach, began, found);
        if goes_on {
            for step in STEPS {
                record.note(step, began, Found::skipped("not tried: there is nothing in it yet"));
            }
        } else {
            record.not_tried(&STEPS);
        }
        return;
    }
    let relay = match subject.relay().await {
        Ok(relay) => relay,
        Err(error) => {
            record.note(Step::Reach, began, subject.failed(Fault::Directory, chain(&error)));
            return record.not_tried(&STEPS);
        }
    };
    record.note(Step::Reach, began, Found::ok(format!("{shown} can be written, and its database opens")));
    let view = match relay.view(&subject.credential(), &subject.name) {
        Ok(view) => view,
        Err(error) => {
            record.note(Step::List, began, subject.failed(Fault::BadConfig, error.to_string()));
            return record.not_tried(&STEPS[1..]);
        }
    };
    let Some(loaded) = catalog::table(subject, &view, record).await else { return record.not_tried(&STEPS[2..]) };
    files::run(subject, &relay, &view, loaded.as_ref(), record).await;
}

/// What stands in the way of using the directory.
fn directory(subject: &Subject, path: &Path) -> Result<(), Found> {
    let shown = path.display();
    let failed = |what: &str, error: &io::Error| {
        Err(subject.failed(Fault::Directory, format!("the directory {shown} cannot be {what}: {error}")))
    };
    match path.metadata() {
        Ok(there) if !there.is_dir() => {
            return Err(subject.failed(Fault::Directory, format!("{shown} is no directory")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What will be made in it shows whether it can be.
            let above = path.ancestors().skip(1).find(|above| above.exists() || above.as_os_str().is_empty());
            let above = above.filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return match try_to_write(above) {
                Ok(()) => Err(Found::warning(
                    format!("the directory {shown} is not there yet"),
                    "look at the path if there should be tables; `polynya serve` makes an empty one there",
                )),
                Err(error) => failed("made", &error),
            };
        }
        Err(error) => return failed("looked at", &error),
    }
    try_to_write(path).or_else(|error| failed("written", &error))
}

fn try_to_write(directory: &Path) -> io::Result<()> {
    let file = directory.join(format!(".polynya-check-{}", uuid::Uuid::new_v4().simple()));
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}

/// An error with all its sources, as one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
