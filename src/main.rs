//! The `polynya` command.

fn main() {}
