//! The frames between agent and spawner: `u32` length (little endian, of what follows), `u8` kind, fields.
//!
//! Integers are little endian, byte strings carry a `u32` length. Both ends are the same binary, so there is
//! no version; a frame that does not parse ends the connection.

use crate::codec::{Cursor, frame};
use crate::{Error, Exit, Outcome, Spec, Stream};
use bytes::{Buf, Bytes, BytesMut};
use std::time::Duration;

/// Longest frame; a request carries its whole standard input.
pub(crate) const MAX_FRAME_BYTES: usize = 32 << 20;
/// Bytes of the length prefix.
pub(crate) const LENGTH_BYTES: usize = 4;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bind, Confinement, Network, Sandbox, SpawnFailure, Stage, Stdin, Usage};

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
