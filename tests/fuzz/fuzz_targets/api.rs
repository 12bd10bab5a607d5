//! Every body of the native protocol: the first byte chooses which, the rest is the body.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_types::limits::FRAME_HEADER_BYTES;
use millstream_wire::api::{
    ApiKey, Call, EncodeError, End, FrameBody, Hello, HelloReply, OpenProduce, OpenSubscription,
    ProduceAck, ProduceOpened, Progress, Reply, SubscriptionOpened, read_batches_prefix,
    read_response, request_frame, response_frame,
};

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    match choice % 12 {
        0 => framed::<Hello>(body),
        1 => framed::<Reply<HelloReply>>(body),
        2 => framed::<OpenProduce>(body),
        3 => framed::<Reply<ProduceOpened>>(body),
        4 => framed::<Reply<ProduceAck>>(body),
        5 => framed::<OpenSubscription>(body),
        6 => framed::<Reply<SubscriptionOpened>>(body),
        7 => framed::<Progress>(body),
        8 => framed::<End>(body),
        9 => stable(body, |body| {
            let call = Call::from_body(body).ok()?;
            Some(request_frame(call.deadline_ms, call.trace, &call.request))
        }),
        10 => {
            for api in ApiKey::ALL {
                stable(body, |body| Some(response_frame(&read_response(*api, body).ok()?)));
            }
        }
        _ => assert_eq!(read_batches_prefix(body).is_ok(), body.len() >= 8 && body[0] < 0x80),
    }
});

fn framed<T: FrameBody>(body: &[u8]) {
    stable(body, |body| Some(T::from_body(body).ok()?.to_frame()));
}

/// What decodes can be written, and what is written reads back and is written the same. Bytes are
/// compared, since later fields are dropped, unknown error codes replaced, and NaN equals nothing.
fn stable(body: &[u8], rewrite: impl Fn(&[u8]) -> Option<Result<Bytes, EncodeError>>) {
    let Some(first) = rewrite(body) else { return };
    let first = first.expect("what was within its limits still is");
    let second = rewrite(&first[FRAME_HEADER_BYTES..]).expect("what was written reads back");
    assert_eq!(second.expect("and is within its limits"), first);
}
