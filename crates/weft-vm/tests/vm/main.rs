//! Machines on real QEMU: the suite of the port, and what is this backend's own. One program, so
//! that a machine that waits and one that computes share the cores.

mod conformance;
mod guest;
mod hostile;
mod killed;
mod machine;
mod support;
