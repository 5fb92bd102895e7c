//! The fields of a frame: integers are little endian, byte strings carry a `u32` length.

use crate::frame::LENGTH_BYTES;
use crate::{
    Bind, Capture, Confinement, Error, Exit, Limits, Network, Outcome, Sandbox, SpawnFailure, Spec,
    Stage, Stdin, Usage,
};
use bytes::{Buf, Bytes};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Appends one frame, patching its length when `fields` is done.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Fields<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    fields(&mut Fields(out));
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Writes the fields of a frame.
pub(crate) struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    pub(crate) fn path(&mut self, value: &Path) {
        self.bytes(value.as_os_str().as_bytes());
    }

    pub(crate) fn optional(&mut self, value: Option<u64>) {
        self.u8(u8::from(value.is_some()));
        self.u64(value.unwrap_or(0));
    }

    pub(crate) fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn capture(&mut self, value: Capture) {
        self.optional(match value {
            Capture::Discard => None,
            Capture::Pipe { limit_bytes } => Some(limit_bytes),
        });
    }

    pub(crate) fn limits(&mut self, limits: &Limits) {
        self.optional(limits.cpu_quota_millicores);
        self.optional(limits.cpu_weight_millicores);
        self.optional(limits.memory_bytes);
        self.optional(limits.disk_bytes);
        self.optional(limits.processes.map(u64::from));
        self.optional(limits.open_files.map(u64::from));
    }

    pub(crate) fn sandbox(&mut self, sandbox: &Sandbox) {
        let Sandbox::Full(confinement) = sandbox else {
            return self.u8(0);
        };
        self.u8(1);
        self.path(&confinement.work_dir);
        self.path(confinement.tmp_dir.as_deref().unwrap_or(Path::new("")));
        self.u8(u8::from(confinement.network == Network::Host));
        self.u32(u32::try_from(confinement.binds.len()).unwrap_or(u32::MAX));
        for bind in &confinement.binds {
            self.path(&bind.source);
            self.path(&bind.target);
            self.u8(u8::from(bind.writable));
        }
    }

    pub(crate) fn spec(&mut self, spec: &Spec) {
        self.u32(u32::try_from(spec.argv.len()).unwrap_or(u32::MAX));
        for argument in &spec.argv {
            self.bytes(argument.as_bytes());
        }
        self.u32(u32::try_from(spec.env.len()).unwrap_or(u32::MAX));
        for (name, value) in &spec.env {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
        self.path(&spec.cwd);
        match &spec.stdin {
            Stdin::Null => self.u8(0),
            Stdin::Bytes(bytes) => {
                self.u8(1);
                self.bytes(bytes);
            }
        }
        self.capture(spec.stdout);
        self.capture(spec.stderr);
        self.optional(
            spec.timeout
                .map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)),
        );
        self.duration(spec.grace);
        self.limits(&spec.limits);
        self.sandbox(&spec.sandbox);
    }
}

/// Reads the fields of a frame.
pub(crate) struct Cursor(pub(crate) Bytes);

impl Cursor {
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, Error> {
        if self.0.len() < length {
            return Err(Error::Frame("truncated field"));
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?.get_u8())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(self.take(4)?.get_u32_le())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        Ok(self.take(8)?.get_u64_le())
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Frame("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Error> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(crate) fn os_string(&mut self) -> Result<OsString, Error> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()))
    }

    pub(crate) fn path(&mut self) -> Result<PathBuf, Error> {
        Ok(self.os_string()?.into())
    }

    pub(crate) fn optional(&mut self) -> Result<Option<u64>, Error> {
        let present = self.flag()?;
        let value = self.u64()?;
        Ok(present.then_some(value))
    }

    pub(crate) fn optional_u32(&mut self) -> Result<Option<u32>, Error> {
        let value = self.optional()?.map(u32::try_from).transpose();
        value.map_err(|_| Error::Frame("number out of range"))
    }

    pub(crate) fn duration(&mut self) -> Result<Duration, Error> {
        Ok(Duration::from_micros(self.u64()?))
    }

    pub(crate) fn capture(&mut self) -> Result<Capture, Error> {
        Ok(self
            .optional()?
            .map_or(Capture::Discard, |limit_bytes| Capture::Pipe {
                limit_bytes,
            }))
    }

    /// A list; each element takes at least one byte, which bounds what is allocated.
    pub(crate) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(Error::Frame("list longer than its frame"));
        }
        (0..length).map(|_| element(self)).collect()
    }

    pub(crate) fn limits(&mut self) -> Result<Limits, Error> {
        Ok(Limits {
            cpu_quota_millicores: self.optional()?,
            cpu_weight_millicores: self.optional()?,
            memory_bytes: self.optional()?,
            disk_bytes: self.optional()?,
            processes: self.optional_u32()?,
            open_files: self.optional_u32()?,
        })
    }

    pub(crate) fn sandbox(&mut self) -> Result<Sandbox, Error> {
        if !self.flag()? {
            return Ok(Sandbox::None);
        }
        let work_dir = self.path()?;
        let tmp_dir = Some(self.path()?).filter(|path| !path.as_os_str().is_empty());
        let network = if self.flag()? {
            Network::Host
        } else {
            Network::None
        };
        let binds = self.list(|f| {
            Ok(Bind {
                source: f.path()?,
                target: f.path()?,
                writable: f.flag()?,
            })
        })?;
        Ok(Sandbox::Full(Confinement {
            work_dir,
            tmp_dir,
            network,
            binds,
        }))
    }

    pub(crate) fn spec(&mut self) -> Result<Spec, Error> {
        Ok(Spec {
            argv: self.list(Self::os_string)?,
            env: self.list(|f| Ok((f.os_string()?, f.os_string()?)))?,
            cwd: self.path()?,
            stdin: if self.flag()? {
                Stdin::Bytes(self.bytes()?)
            } else {
                Stdin::Null
            },
            stdout: self.capture()?,
            stderr: self.capture()?,
            timeout: self.optional()?.map(Duration::from_micros),
            grace: self.duration()?,
            limits: self.limits()?,
            sandbox: self.sandbox()?,
        })
    }

    pub(crate) fn exit(&mut self) -> Result<Exit, Error> {
        let kind = self.u8()?;
        let value = self.u32()?.cast_signed();
        let outcome = match kind {
            0 => Outcome::Exited(value),
            1 => Outcome::Signalled(value),
            stage => Outcome::NotStarted(SpawnFailure {
                stage: Stage::from_code(stage - 2).ok_or(Error::Frame("unknown stage"))?,
                errno: value,
            }),
        };
        let usage = Usage {
            user_us: self.u64()?,
            system_us: self.u64()?,
            wall_us: self.u64()?,
            max_rss_bytes: self.u64()?,
            cgroup_peak_bytes: self.optional()?,
        };
        let flags = self.u8()?;
        let flag = |bit: u8| flags & (1 << bit) != 0;
        Ok(Exit {
            outcome,
            usage,
            timed_out: flag(0),
            oom_killed: flag(1),
            disk_exceeded: flag(2),
            stdout_truncated: flag(3),
            stderr_truncated: flag(4),
        })
    }

    pub(crate) fn end(&self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Frame("trailing bytes"))
        }
    }
}
