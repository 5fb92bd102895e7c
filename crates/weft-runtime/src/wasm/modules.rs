//! From the bytes of a program to something that can be instantiated at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::{self, Component};
use wasmtime::{Engine, InstancePre, Linker};
use wasmtime_wasi::p2::bindings::CommandPre;
use weft_types::{BlobHash, Failure, Reason};

use super::cache::CodeCache;
use super::host::Host;
use crate::outcome::storage;
use crate::{Error, Module, ModuleSource};

/// Programs kept in memory; the one not used for longest goes first.
const MAX_LOADED: usize = 64;
/// Largest program, text or binary.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// A program, compiled and linked.
#[derive(Clone)]
pub(super) enum Program {
    /// A WASI preview 1 module.
    Preview1(InstancePre<Host>),
    /// A WASI preview 2 command component.
    Preview2(CommandPre<Host>),
}

/// The programs of this node.
pub(super) struct Modules {
    engine: Engine,
    preview1: Linker<Host>,
    preview2: component::Linker<Host>,
    cache: CodeCache,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    slots: BTreeMap<BlobHash, Slot>,
    uses: u64,
}

struct Slot {
    /// Locked while it is compiled, so that each is compiled once.
    program: Arc<Mutex<Option<Program>>>,
    last_use: u64,
}

impl Modules {
    pub(super) fn new(engine: Engine, cache: CodeCache) -> Result<Self, Error> {
        let refused = |error: wasmtime::Error| Error::Engine(format!("{error:#}"));
        let mut preview1 = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut preview1, Host::wasi).map_err(refused)?;
        let mut preview2 = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut preview2).map_err(refused)?;
        Ok(Self {
            engine,
            preview1,
            preview2,
            cache,
            loaded: Mutex::default(),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The program of a module. Blocks: it may have to be compiled.
    ///
    /// # Errors
    /// `invalid-spec` when it is no program for WASI, `artifact-missing` or `storage-error` when it cannot be read.
    pub(super) fn load(&self, module: &Module) -> Result<Program, Failure> {
        let slot = self.loaded.lock().slot(module.hash);
        let mut program = slot.lock();
        if let Some(program) = &*program {
            return Ok(program.clone());
        }
        let loaded = self.link(module)?;
        Ok(program.insert(loaded).clone())
    }

    fn link(&self, module: &Module) -> Result<Program, Failure> {
        if let Some(code) = self.cache.get(&module.hash) {
            match self.link_code(&code) {
                Ok(program) => return Ok(program),
                Err(failure) => {
                    tracing::debug!(module = %module.hash, %failure, "cached code is not used")
                }
            }
        }
        let code = compile(&self.engine, &read(module)?)?;
        if let Err(error) = self.cache.put(&module.hash, &code) {
            // Only a cache: without it the next start is slower.
            tracing::warn!(module = %module.hash, %error, "compiled code could not be kept");
        }
        self.link_code(&code)
    }

    fn link_code(&self, code: &[u8]) -> Result<Program, Failure> {
        if Engine::detect_precompiled(code) == Some(wasmtime::Precompiled::Component) {
            // SAFETY: `code` is what `precompile_component` returned, here or, with its hash intact, in a directory
            // that only this user can write; the engine checks that it was made by its own like.
            let component =
                unsafe { Component::deserialize(&self.engine, code) }.map_err(invalid)?;
            let linked = self.preview2.instantiate_pre(&component).map_err(invalid)?;
            return CommandPre::new(linked)
                .map(Program::Preview2)
                .map_err(invalid);
        }
        // SAFETY: as above, of `precompile_module`.
        let module =
            unsafe { wasmtime::Module::deserialize(&self.engine, code) }.map_err(invalid)?;
        if module.get_export("_start").is_none() {
            let detail = "the module exports no function `_start`";
            return Err(Failure::new(Reason::InvalidSpec, detail).with_next(
                "build it as a WASI command, not as a library (for C: --target=wasm32-wasi)",
            ));
        }
        self.preview1
            .instantiate_pre(&module)
            .map(Program::Preview1)
            .map_err(invalid)
    }
}

impl Loaded {
    fn slot(&mut self, hash: BlobHash) -> Arc<Mutex<Option<Program>>> {
        self.uses += 1;
        let last_use = self.uses;
        let slot = self.slots.entry(hash).or_insert_with(|| Slot {
            program: Arc::default(),
            last_use,
        });
        slot.last_use = last_use;
        let program = Arc::clone(&slot.program);
        if self.slots.len() > MAX_LOADED {
            let oldest = self
                .slots
                .iter()
                .min_by_key(|(_, slot)| slot.last_use)
                .map(|(hash, _)| *hash);
            oldest.and_then(|oldest| self.slots.remove(&oldest));
        }
        program
    }
}

/// Machine code for a module or component, text or binary.
fn compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let binary = wat::parse_bytes(bytes).map_err(|error| {
        Failure::new(
            Reason::InvalidSpec,
            format!(
                "not a WebAssembly program: {}",
                first_line(&error.to_string())
            ),
        )
    })?;
    if is_component(&binary) {
        engine.precompile_component(&binary).map_err(invalid)
    } else {
        engine.precompile_module(&binary).map_err(invalid)
    }
}

/// The "layer" field of the preamble tells components from modules (Component Model, Binary.md).
fn is_component(binary: &[u8]) -> bool {
    binary.get(6..8) == Some(&[1, 0])
}

fn read(module: &Module) -> Result<bytes::Bytes, Failure> {
    let bytes = match &module.source {
        ModuleSource::Bytes(bytes) => bytes.clone(),
        ModuleSource::File(path) => read_file(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                Reason::ArtifactMissing,
                format!("the module {} is not on the node", module.hash),
            ),
            _ => storage("cannot read the module", &error),
        })?,
    };
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        let detail = format!("the module has more than {MAX_MODULE_BYTES} bytes");
        return Err(Failure::new(Reason::InvalidSpec, detail));
    }
    Ok(bytes)
}

fn read_file(path: &std::path::Path) -> io::Result<bytes::Bytes> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_MODULE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn invalid(error: wasmtime::Error) -> Failure {
    Failure::new(
        Reason::InvalidSpec,
        format!(
            "not a program for WASI: {}",
            first_line(&format!("{error:#}"))
        ),
    )
}

fn first_line(text: &str) -> &str {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("malformed")
}
