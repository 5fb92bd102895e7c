//! Segments of the journal: whatever they hold, the journal opens and goes on.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weft_queue::{JobKey, Journal, Options, Record};

fuzz_target!(|bytes: &[u8]| {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let mut segment = b"WEFTJR01\x01\0\0\0\0\0\0\0".to_vec();
    segment.extend_from_slice(bytes);
    if std::fs::write(dir.path().join("0000000001.log"), segment).is_err() {
        return;
    }
    let options = Options { segment_bytes: 4_096, ..Options::default() };
    let Ok((journal, _)) = Journal::open(dir.path(), options) else { return };
    let job = JobKey(u64::MAX);
    let payloads = vec![Bytes::from_static(b"payload")];
    let record = Record::Job { job, header: Bytes::new(), tasks: Some(1), payloads: payloads.clone() };
    let (sender, receiver) = std::sync::mpsc::channel();
    journal.append(&[record], move |result| drop(sender.send(result)));
    assert_eq!(receiver.recv(), Ok(Ok(())));
    assert_eq!(journal.payloads(job, 0, 1), Some(payloads));
});
