//! Placement: filter candidates, score them in money, choose the cheapest, explain.
//!
//! ```text
//!  candidates ──filter──▶ those that may ──score──▶ those with a price ──min──▶ the choice
//!                │ Refusal, with amounts     │ Score, term by term
//!                └───────────────┬───────────┘
//!                          Explanation, with the nearest change that would help
//! ```
//!
//! [`Index`] gives the same answer as a full scan, but keeps for each class of equal requests the
//! candidates in the order of their score and looks again only at those that changed.
//!
//! Architecture invariant: pure. No I/O, no clock, no randomness; ties are broken by the key of
//! the candidate. What a unit of work is, and who it belongs to, it does not know.

mod explain;
mod filter;
mod free;
mod index;
mod model;
mod nearest;
mod price;
mod score;

pub use explain::{Considered, Explanation, Room, Verdict, consider};
pub use filter::{Refusal, RefusalKind};
pub use free::Free;
pub use index::{ClassId, Index};
pub use model::{Availability, Candidate, CandidateId, ClosedReason, Request};
pub use nearest::NearestChange;
pub use price::share_of_price;
pub use score::{Score, Term, TermName};
