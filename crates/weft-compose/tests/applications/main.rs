//! The suite of all backends, and applications of several services, over private engines. One
//! program, so that one test's waiting is another's time.

mod common;
mod conformance;
mod services;
