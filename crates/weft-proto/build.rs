//! Compiles the protocols with a compiler written in Rust, so that no protoc is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["weft/v1/agent.proto", "weft/v1/journal.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;

    // The clients' interface is compiled by itself: its description is given to clients, and
    // nothing of the agents' must be in it.
    let descriptors = protox::compile(["weft/v1/api.proto"], ["proto"])?;
    let description = prost::Message::encode_to_vec(&descriptors);
    std::fs::write(out.join("api.bin"), description)?;
    let api = out.join("api");
    std::fs::create_dir_all(&api)?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(api)
        .compile_fds(descriptors)?;
    Ok(())
}
