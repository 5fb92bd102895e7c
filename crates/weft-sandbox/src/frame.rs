//! The frames between agent and spawner: `u32` length (little endian, of what follows), `u8` kind, fields.
//!
//! Integers are little endian, byte strings carry a `u32` length. Both ends are the same binary, so there is
//! no version; a frame that does not parse ends the connection.

use crate::{
    Bind, Capture, Confinement, Error, Exit, Limits, Network, Outcome, Sandbox, SpawnFailure, Spec,
    Stage, Stdin, Stream, Usage,
};
use bytes::{Buf, Bytes, BytesMut};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest frame; a request carries its whole standard input.
pub(crate) const MAX_FRAME_BYTES: usize = 32 << 20;
/// Bytes of the length prefix.
const LENGTH_BYTES: usize = 4;
/// Output bytes per process on their way to the agent and not yet consumed there.
pub(crate) const OUTPUT_WINDOW_BYTES: u64 = 256 << 10;

/// Agent to spawner.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// First frame: [`crate::Options`] as JSON.
    Configure(Bytes),
    /// Start a process.
    Spawn { id: u64, spec: Box<Spec> },
    /// Signal it, and kill it and its descendants after the grace period.
    Kill {
        id: u64,
        signal: i32,
        grace: Duration,
    },
    /// Kill it because of its disk use.
    KillForDisk { id: u64 },
    /// The agent consumed output.
    Credit { id: u64, bytes: u64 },
    /// Kill everything and end, in order.
    Shutdown,
}

/// Spawner to agent.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// Configured; [`crate::Capabilities`] as JSON.
    Ready(Bytes),
    /// Output of a process.
    Output {
        id: u64,
        stream: Stream,
        bytes: Bytes,
    },
    /// The end of a process.
    Exit { id: u64, exit: Exit },
}

const CONFIGURE: u8 = 1;
const SPAWN: u8 = 2;
const KILL: u8 = 3;
const KILL_FOR_DISK: u8 = 4;
const CREDIT: u8 = 5;
const SHUTDOWN: u8 = 6;
const READY: u8 = 64;
const OUTPUT: u8 = 65;
const EXIT: u8 = 66;

/// Takes the next whole frame (without its length) off `input`.
///
/// # Errors
/// When the length is zero or above [`MAX_FRAME_BYTES`].
pub(crate) fn take_frame(input: &mut BytesMut) -> Result<Option<Bytes>, Error> {
    let Some(prefix) = input.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 || length > MAX_FRAME_BYTES {
        return Err(Error::Frame("length out of range"));
    }
    if input.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    input.advance(LENGTH_BYTES);
    Ok(Some(input.split_to(length).freeze()))
}

/// Appends one frame, patching its length when `fields` is done.
fn frame(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Fields<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    fields(&mut Fields(out));
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Writes the fields of a frame.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
    }

    fn path(&mut self, value: &Path) {
        self.bytes(value.as_os_str().as_bytes());
    }

    fn optional(&mut self, value: Option<u64>) {
        self.u8(u8::from(value.is_some()));
        self.u64(value.unwrap_or(0));
    }

    fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    fn capture(&mut self, value: Capture) {
        self.optional(match value {
            Capture::Discard => None,
            Capture::Pipe { limit_bytes } => Some(limit_bytes),
        });
    }

    fn limits(&mut self, limits: &Limits) {
        self.optional(limits.cpu_quota_millicores);
        self.optional(limits.cpu_weight_millicores);
        self.optional(limits.memory_bytes);
        self.optional(limits.disk_bytes);
        self.optional(limits.processes.map(u64::from));
        self.optional(limits.open_files.map(u64::from));
    }

    fn sandbox(&mut self, sandbox: &Sandbox) {
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

    fn spec(&mut self, spec: &Spec) {
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

impl Request {
    /// Appends this frame to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Configure(json) => frame(out, CONFIGURE, |f| f.bytes(json)),
            Self::Spawn { id, spec } => frame(out, SPAWN, |f| {
                f.u64(*id);
                f.spec(spec);
            }),
            Self::Kill { id, signal, grace } => frame(out, KILL, |f| {
                f.u64(*id);
                f.u32(signal.cast_unsigned());
                f.duration(*grace);
            }),
            Self::KillForDisk { id } => frame(out, KILL_FOR_DISK, |f| f.u64(*id)),
            Self::Credit { id, bytes } => frame(out, CREDIT, |f| {
                f.u64(*id);
                f.u64(*bytes);
            }),
            Self::Shutdown => frame(out, SHUTDOWN, |_| ()),
        }
    }

    /// Parses one frame.
    ///
    /// # Errors
    /// When it is not exactly one well-formed request.
    pub(crate) fn decode(frame: Bytes) -> Result<Self, Error> {
        let mut f = Cursor(frame);
        let request = match f.u8()? {
            CONFIGURE => Self::Configure(f.bytes()?),
            SPAWN => Self::Spawn {
                id: f.u64()?,
                spec: Box::new(f.spec()?),
            },
            KILL => Self::Kill {
                id: f.u64()?,
                signal: f.u32()?.cast_signed(),
                grace: f.duration()?,
            },
            KILL_FOR_DISK => Self::KillForDisk { id: f.u64()? },
            CREDIT => Self::Credit {
                id: f.u64()?,
                bytes: f.u64()?,
            },
            SHUTDOWN => Self::Shutdown,
            _ => return Err(Error::Frame("unknown request")),
        };
        f.end()?;
        Ok(request)
    }
}

impl Report {
    /// Appends this frame to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ready(json) => frame(out, READY, |f| f.bytes(json)),
            Self::Output { id, stream, bytes } => encode_output(out, *id, *stream, bytes),
            Self::Exit { id, exit } => frame(out, EXIT, |f| {
                f.u64(*id);
                let (kind, value) = match exit.outcome {
                    Outcome::Exited(code) => (0, code),
                    Outcome::Signalled(signal) => (1, signal),
                    Outcome::NotStarted(failure) => (2 + failure.stage as u8, failure.errno),
                };
                f.u8(kind);
                f.u32(value.cast_unsigned());
                f.u64(exit.usage.user_us);
                f.u64(exit.usage.system_us);
                f.u64(exit.usage.wall_us);
                f.u64(exit.usage.max_rss_bytes);
                f.optional(exit.usage.cgroup_peak_bytes);
                let flags = [
                    exit.timed_out,
                    exit.oom_killed,
                    exit.disk_exceeded,
                    exit.stdout_truncated,
                    exit.stderr_truncated,
                ];
                f.u8(flags
                    .iter()
                    .enumerate()
                    .map(|(bit, set)| u8::from(*set) << bit)
                    .sum());
            }),
        }
    }

    /// Parses one frame.
    ///
    /// # Errors
    /// When it is not exactly one well-formed report.
    pub(crate) fn decode(frame: Bytes) -> Result<Self, Error> {
        let mut f = Cursor(frame);
        let report = match f.u8()? {
            READY => Self::Ready(f.bytes()?),
            OUTPUT => {
                let id = f.u64()?;
                let stream = if f.flag()? {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                Self::Output {
                    id,
                    stream,
                    bytes: f.bytes()?,
                }
            }
            EXIT => Self::Exit {
                id: f.u64()?,
                exit: f.exit()?,
            },
            _ => return Err(Error::Frame("unknown report")),
        };
        f.end()?;
        Ok(report)
    }
}

/// Appends a [`Report::Output`] without owning the bytes.
pub(crate) fn encode_output(out: &mut Vec<u8>, id: u64, stream: Stream, bytes: &[u8]) {
    frame(out, OUTPUT, |f| {
        f.u64(id);
        f.u8(u8::from(stream == Stream::Stderr));
        f.bytes(bytes);
    });
}

/// Reads the fields of a frame.
struct Cursor(Bytes);

impl Cursor {
    fn take(&mut self, length: usize) -> Result<Bytes, Error> {
        if self.0.len() < length {
            return Err(Error::Frame("truncated field"));
        }
        Ok(self.0.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?.get_u8())
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(self.take(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(self.take(8)?.get_u64_le())
    }

    fn flag(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Frame("a flag is neither 0 nor 1")),
        }
    }

    fn bytes(&mut self) -> Result<Bytes, Error> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn os_string(&mut self) -> Result<OsString, Error> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()))
    }

    fn path(&mut self) -> Result<PathBuf, Error> {
        Ok(self.os_string()?.into())
    }

    fn optional(&mut self) -> Result<Option<u64>, Error> {
        let present = self.flag()?;
        let value = self.u64()?;
        Ok(present.then_some(value))
    }

    fn optional_u32(&mut self) -> Result<Option<u32>, Error> {
        let value = self.optional()?.map(u32::try_from).transpose();
        value.map_err(|_| Error::Frame("number out of range"))
    }

    fn duration(&mut self) -> Result<Duration, Error> {
        Ok(Duration::from_micros(self.u64()?))
    }

    fn capture(&mut self) -> Result<Capture, Error> {
        Ok(self
            .optional()?
            .map_or(Capture::Discard, |limit_bytes| Capture::Pipe {
                limit_bytes,
            }))
    }

    /// A list; each element takes at least one byte, which bounds what is allocated.
    fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(Error::Frame("list longer than its frame"));
        }
        (0..length).map(|_| element(self)).collect()
    }

    fn limits(&mut self) -> Result<Limits, Error> {
        Ok(Limits {
            cpu_quota_millicores: self.optional()?,
            cpu_weight_millicores: self.optional()?,
            memory_bytes: self.optional()?,
            disk_bytes: self.optional()?,
            processes: self.optional_u32()?,
            open_files: self.optional_u32()?,
        })
    }

    fn sandbox(&mut self) -> Result<Sandbox, Error> {
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

    fn spec(&mut self) -> Result<Spec, Error> {
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

    fn exit(&mut self) -> Result<Exit, Error> {
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

    fn end(&self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Frame("trailing bytes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let mut spec = Spec::new(["echo", "a b", ""], "/tmp", Sandbox::None);
        spec.stdin = Stdin::Bytes(Bytes::from_static(b"in"));
        spec.timeout = Some(Duration::from_millis(1_500));
        spec.limits.memory_bytes = Some(1 << 30);
        spec.limits.processes = Some(7);
        let mut confinement = Confinement::new("/work");
        confinement.network = Network::Host;
        confinement.binds.push(Bind {
            source: "/a".into(),
            target: "/b".into(),
            writable: true,
        });
        spec.sandbox = Sandbox::Full(confinement);
        spec
    }

    fn encoded(request: &Request) -> BytesMut {
        let mut out = Vec::new();
        request.encode(&mut out);
        BytesMut::from(out.as_slice())
    }

    #[test]
    fn a_request_survives_encoding() {
        let request = Request::Spawn {
            id: 9,
            spec: Box::new(spec()),
        };
        let frame = take_frame(&mut encoded(&request)).unwrap().unwrap();
        assert_eq!(
            format!("{:?}", Request::decode(frame).unwrap()),
            format!("{request:?}")
        );
    }

    #[test]
    fn a_report_survives_encoding() {
        for outcome in [
            Outcome::Exited(3),
            Outcome::Signalled(9),
            Outcome::NotStarted(SpawnFailure {
                stage: Stage::Exec,
                errno: libc::ENOENT,
            }),
        ] {
            let exit = Exit {
                outcome,
                usage: Usage {
                    user_us: 1,
                    cgroup_peak_bytes: Some(4),
                    ..Usage::default()
                },
                timed_out: true,
                oom_killed: false,
                disk_exceeded: true,
                stdout_truncated: false,
                stderr_truncated: true,
            };
            let mut out = Vec::new();
            Report::Exit {
                id: 1,
                exit: exit.clone(),
            }
            .encode(&mut out);
            let frame = take_frame(&mut BytesMut::from(out.as_slice()))
                .unwrap()
                .unwrap();
            let Report::Exit { id: 1, exit: back } = Report::decode(frame).unwrap() else {
                panic!("not an exit")
            };
            assert_eq!(back, exit);
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error_or_another_request_but_never_a_panic() {
        let whole = take_frame(&mut encoded(&Request::Spawn {
            id: 9,
            spec: Box::new(spec()),
        }))
        .unwrap()
        .unwrap();
        for length in 0..whole.len() {
            assert!(
                Request::decode(whole.slice(..length)).is_err(),
                "accepted {length} of {} bytes",
                whole.len()
            );
        }
        for position in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[position] ^= 0xff;
            let _ = Request::decode(bytes.clone().into());
            let _ = Report::decode(bytes.into());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_buffered() {
        assert!(take_frame(&mut BytesMut::from(&u32::MAX.to_le_bytes()[..])).is_err());
        assert!(take_frame(&mut BytesMut::from(&0u32.to_le_bytes()[..])).is_err());
        assert!(
            take_frame(&mut BytesMut::from(&[9, 0, 0, 0, 1][..]))
                .unwrap()
                .is_none()
        );
    }
}
