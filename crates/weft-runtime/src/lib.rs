//! Runtime port and its backends: op, wasm, process
