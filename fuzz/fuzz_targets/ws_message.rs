//! Messages of the WebSocket: refused or understood, never a panic; an id that was read is a good one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_api::{MAX_WS_ID_BYTES, WsCall, WsRequest};

fuzz_target!(|bytes: &[u8]| {
    let id = match WsRequest::parse(bytes) {
        Ok(request) => {
            if let WsCall::Submit { workload, .. } = &request.call {
                let _ = workload.check();
            }
            Some(request.id)
        }
        Err(refused) => refused.id,
    };
    if let Some(id) = id {
        assert!((1..=MAX_WS_ID_BYTES).contains(&id.len()));
    }
});
