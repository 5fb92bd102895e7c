//! The node agent: one session to a server, runtimes, limits, reports
