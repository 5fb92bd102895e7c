//! Durable journal of jobs, tasks and results with group commit
