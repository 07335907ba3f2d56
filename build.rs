//! Compiles the protobuf files (in pure Rust, so no `protoc` is needed) and tells the linker where the finished binary looks for
//! libduckdb: beside itself, in `../lib`, and in the directory that it was linked against.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile(["proto/worker.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    println!("cargo:rerun-if-changed=proto");

    println!("cargo:rerun-if-env-changed=DUCKDB_LIB_DIR");
    let mut paths = vec!["$ORIGIN".to_owned(), "$ORIGIN/../lib".to_owned()];
    paths.extend(std::env::var("DUCKDB_LIB_DIR"));
    for path in paths {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
    Ok(())
}
