//! Virtual machines on QEMU.
