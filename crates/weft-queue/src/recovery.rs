//! Reading the whole journal at the start.

use std::path::Path;

use bytes::Bytes;

use crate::Error;
use crate::frame::{Found, HEAD_BYTES, frame_at, next_frame};
use crate::index::{Index, Location};
use crate::record::{JobKey, View, view};
use crate::segment::{self, START, SegmentNo};

/// A part of a segment that cannot be read; what it said is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The number of the segment.
    pub segment: u32,
    /// Where the damage begins, in bytes.
    pub offset: u64,
    /// Where the next whole record begins, in bytes; the end of the segment if there is none.
    pub until: u64,
}

/// A job as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredJob {
    /// Which.
    pub job: JobKey,
    /// What the caller kept.
    pub header: Bytes,
    /// How many tasks it has.
    pub tasks: u32,
    /// Tasks with a result: number, attempt, state.
    pub results: Vec<(u32, u32, u8)>,
    /// The caller's last state.
    pub state: Option<Bytes>,
    /// Attempts that were noted: task, attempt, the caller's code of how it ended.
    pub notes: Vec<(u32, u32, u8)>,
}

/// What was found at the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Complete jobs in the order of their numbers.
    pub jobs: Vec<RecoveredJob>,
    /// Parts that cannot be read.
    pub damage: Vec<Damage>,
}

/// Where the log goes on.
pub(crate) struct End {
    pub(crate) segment: Option<SegmentNo>,
    pub(crate) offset: u32,
}

/// Reads all segments into an index.
pub(crate) fn recover(dir: &Path) -> Result<(Index, End, Vec<Damage>), Error> {
    let mut index = Index {
        is_recovering: true,
        ..Index::default()
    };
    let mut damage = Vec::new();
    let mut end = End {
        segment: None,
        offset: START,
    };
    let segments = segment::list(dir)?;
    for (position, number) in segments.iter().enumerate() {
        let path = number.path(dir);
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, &error))?;
        let is_last = position + 1 == segments.len();
        let mut walk = Walk {
            number: *number,
            bytes: &bytes,
            index: &mut index,
            damage: Vec::new(),
            synced_to: START,
        };
        let offset = walk.run();
        let synced_to = walk.synced_to;
        let mut found = walk.damage;
        // What is torn in the last group of the log was never acknowledged.
        if is_last {
            found.retain(|part| {
                part.offset < u64::from(synced_to) || part.until < bytes.len() as u64
            });
        } else {
            found.retain(|part| {
                part.until < bytes.len() as u64 || !is_torn_tail(&bytes, part, synced_to)
            });
        }
        damage.extend(found);
        end = End {
            segment: Some(*number),
            offset,
        };
    }
    index.recovered();
    Ok((index, end, damage))
}

/// A segment that was given up after a failed sync ends in a group that was not acknowledged.
fn is_torn_tail(bytes: &[u8], part: &Damage, synced_to: u32) -> bool {
    part.until == bytes.len() as u64 && part.offset >= u64::from(synced_to)
}

struct Walk<'a> {
    number: SegmentNo,
    bytes: &'a [u8],
    index: &'a mut Index,
    damage: Vec<Damage>,
    /// Up to where groups that follow say that everything was synced.
    synced_to: u32,
}

impl Walk<'_> {
    /// Takes all frames in; where the last one ends.
    fn run(&mut self) -> u32 {
        let mut at = START as usize;
        if !segment::is_segment(self.bytes, self.number) {
            self.damage.push(Damage {
                segment: self.number.0,
                offset: 0,
                until: START.into(),
            });
        }
        let mut end = at;
        while at < self.bytes.len() {
            match frame_at(&self.bytes[at..]) {
                Found::Frame(body) => {
                    self.take(at, body);
                    at += HEAD_BYTES + body.len();
                    end = at;
                }
                found => match next_frame(self.bytes, at + 1) {
                    Some(next) => {
                        self.damage.push(Damage {
                            segment: self.number.0,
                            offset: at as u64,
                            until: next as u64,
                        });
                        at = next;
                    }
                    None => {
                        if found == Found::Broken {
                            let until = self.bytes.len() as u64;
                            self.damage.push(Damage {
                                segment: self.number.0,
                                offset: at as u64,
                                until,
                            });
                        }
                        break;
                    }
                },
            }
        }
        end as u32
    }

    fn take(&mut self, at: usize, body: &[u8]) {
        match view(body) {
            Some(View::Synced { to }) => self.synced_to = self.synced_to.max(to),
            Some(view) => {
                let frame = Location {
                    segment: self.number,
                    offset: at as u32,
                };
                self.index.apply(frame, HEAD_BYTES as u32, view);
            }
            // Written by a newer version: it cannot concern what this one does.
            None => tracing::warn!(
                segment = self.number.0,
                offset = at,
                "an unknown record was passed over"
            ),
        }
    }
}
