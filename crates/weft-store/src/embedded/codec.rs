//! Records and events as bytes. Numbers are little-endian; lengths come before what they measure.

use bytes::Bytes;

use crate::{Error, Event, KeyValue, LeaseId};

/// A record: create, mod, version, lease (0 for none), then the value.
pub(super) fn encode_record(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + kv.value.len());
    for number in [
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        kv.lease.map_or(0, |lease| lease.0),
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&kv.value);
    bytes
}

pub(super) fn decode_record(key: &str, bytes: &[u8]) -> Result<KeyValue, Error> {
    let mut reader = Reader { key, rest: bytes };
    Ok(KeyValue {
        key: key.to_owned(),
        create_revision: reader.number()?,
        mod_revision: reader.number()?,
        version: reader.number()?,
        lease: Some(reader.number()?)
            .filter(|lease| *lease != 0)
            .map(LeaseId),
        value: Bytes::copy_from_slice(reader.rest),
    })
}

/// The events of one revision: for each a kind, the key, and the record of a put.
pub(super) fn encode_events(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        let (kind, record) = match event {
            Event::Put(kv) => (1u64, encode_record(kv)),
            Event::Delete { .. } => (0u64, Vec::new()),
        };
        bytes.extend_from_slice(&kind.to_le_bytes());
        for part in [event.key().as_bytes(), &record] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

pub(super) fn decode_events(bytes: &[u8]) -> Result<Vec<Event>, Error> {
    let mut reader = Reader {
        key: "history",
        rest: bytes,
    };
    let mut events = Vec::new();
    while !reader.rest.is_empty() {
        let kind = reader.number()?;
        let key = String::from_utf8_lossy(reader.part()?).into_owned();
        let record = reader.part()?;
        events.push(if kind == 1 {
            Event::Put(decode_record(&key, record)?)
        } else {
            Event::Delete { key }
        });
    }
    Ok(events)
}

struct Reader<'a> {
    key: &'a str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let taken = self.rest.split_at_checked(length);
        let (taken, rest) = taken.ok_or_else(|| Error::Corrupt {
            key: self.key.to_owned(),
            detail: format!("{length} bytes expected, {} left", self.rest.len()),
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(number))
    }

    fn part(&mut self) -> Result<&'a [u8], Error> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.take(length)
    }
}
