//! Containers on Docker Engine or Podman, over the API that both speak on a Unix socket.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use weft_engine::{Engine, Options};
//! use weft_unit::UnitRuntime;
//! let engine = Engine::new(Options::new(
//!     "/var/run/docker.sock".into(),
//!     "node-1".parse()?,
//!     "/var/lib/weft/agent".into(),
//! ))?;
//! println!("{:?}", engine.probe().await);
//! # Ok(())
//! # }
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `engine.rs` | [`Engine`], the port's methods |
//! | `connection.rs` | reaching the engine, and what it is able to do |
//! | `request.rs` | from a specification to the engine's request, without I/O |
//! | `life.rs` | start, stop, remove |
//! | `image.rs`, `pulled.rs` | pulling; which images we pulled, and cleaning them |
//! | `look.rs`, `observe.rs`, `logs.rs`, `exec.rs`, `stats.rs`, `events.rs` | looking and talking |
//!
//! A unit is one container named `weft-UNIT`, found by that name and by the labels of
//! [`weft_unit::labels`]. The engine itself never starts it again: that is decided by the agent.
//! Ports are not published, since the agent connects to the container's address; only an engine
//! without root, whose addresses cannot be reached, publishes them at free ports of 127.0.0.1.
//!
//! The disk limit is enforced where the engine's storage driver can do it (`btrfs`, `zfs`, overlay
//! on xfs with project quotas), which the probe tells as the capability `disk-quota`. Elsewhere
//! [`weft_unit::Usage::disk_bytes`] is measured now and then, and whoever asked for it compares.
//!
//! Environment variables from secrets are part of what the engine keeps of a container, in its own
//! directory and for whoever may use its socket. They are in no log and no error of ours.
//!
//! Architecture invariant: knows no server and no policy. Whether a container may be privileged is
//! decided before it gets here.

mod connection;
mod engine;
mod error;
mod events;
mod exec;
mod hijack;
mod image;
mod life;
mod logs;
mod look;
mod observe;
mod pulled;
mod reference;
mod request;
mod stats;

pub use connection::Flavour;
pub use engine::{Engine, Options};
pub use error::Error;
pub use events::events_since;
pub use pulled::Pulled;
