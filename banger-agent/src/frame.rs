//! Frames: what a stream carries, in both directions.
//!
//! A frame is one kind byte, a 32-bit big-endian length, and that many bytes. Kind 0 is a control
//! frame and holds one JSON document; any other kind is data on the channel of that number, whose
//! meaning the operation defines.

mod reader;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

pub use self::reader::FrameReader;
use crate::link::PAYLOAD;

/// The most bytes a control frame may hold.
pub const MAX_CONTROL: usize = 1 << 20;
/// The most bytes a data frame may hold.
pub const MAX_DATA: usize = 1 << 18;

const HEADER: usize = 5;
/// What a data frame had best hold at most: with its header it is one frame of the link.
pub const CHUNK: usize = PAYLOAD - HEADER;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One JSON document.
    Control(Bytes),
    /// Bytes on a channel, numbered from 1.
    Data(u8, Bytes),
}

/// Why bytes are not a frame, or a frame not the message that was expected.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length field is over the limit of its kind.
    #[error("a frame of kind {kind} announces {length} bytes, more than the {limit} allowed")]
    TooLong {
        /// 0 for control, else the channel.
        kind: u8,
        /// What the header says, in bytes.
        length: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A control frame is not the JSON that its place calls for.
    #[error("a control frame is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A frame that its place does not allow.
    #[error("{0}")]
    Unexpected(&'static str),
    /// The stream ended inside an operation.
    #[error("the stream ended in the middle of an operation")]
    Ended,
    /// The stream itself failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Frame {
    /// A control frame that holds `message` as JSON.
    ///
    /// # Panics
    /// If `message` has no JSON form (a map with non-string keys), which no type of
    /// [`crate::protocol`] does.
    pub fn control<T: Serialize>(message: &T) -> Self {
        Frame::Control(serde_json::to_vec(message).expect("protocol types have a JSON form").into())
    }

    /// The message of a control frame.
    ///
    /// # Errors
    /// If this is a data frame, or its JSON is not a `T`.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self {
            Frame::Control(json) => Ok(serde_json::from_slice(json)?),
            Frame::Data(..) => Err(FrameError::Unexpected("data where a control frame belongs")),
        }
    }
}

/// The codec of [`Frame`], for `tokio_util`'s framed readers and writers.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCodec;

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if source.len() < HEADER {
            return Ok(None);
        }
        let kind = source[0];
        let length = u32::from_be_bytes([source[1], source[2], source[3], source[4]]) as usize;
        let limit = if kind == 0 { MAX_CONTROL } else { MAX_DATA };
        if length > limit {
            return Err(FrameError::TooLong { kind, length, limit });
        }
        if source.len() < HEADER + length {
            source.reserve(HEADER + length - source.len());
            return Ok(None);
        }
        source.advance(HEADER);
        let payload = source.split_to(length).freeze();
        Ok(Some(if kind == 0 { Frame::Control(payload) } else { Frame::Data(kind, payload) }))
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(source)? {
            Some(frame) => Ok(Some(frame)),
            None if source.is_empty() => Ok(None),
            None => Err(FrameError::Ended),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, target: &mut BytesMut) -> Result<(), FrameError> {
        let (kind, payload, limit) = match &frame {
            Frame::Control(json) => (0, json, MAX_CONTROL),
            // The other end would read it as a control frame.
            Frame::Data(0, _) => return Err(FrameError::Unexpected("data on the channel of control frames")),
            Frame::Data(channel, bytes) => (*channel, bytes, MAX_DATA),
        };
        if payload.len() > limit {
            return Err(FrameError::TooLong { kind, length: payload.len(), limit });
        }
        target.reserve(HEADER + payload.len());
        target.put_u8(kind);
        target.put_u32(payload.len() as u32);
        target.extend_from_slice(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::protocol;

    #[test]
    fn data_on_the_control_channel_is_refused() {
        let mut target = BytesMut::new();
        FrameCodec.encode(Frame::Data(0, Bytes::from_static(b"{}")), &mut target).unwrap_err();
        assert!(target.is_empty());
    }

    fn decode_all(mut bytes: BytesMut) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = FrameCodec.decode_eof(&mut bytes)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_decode_across_any_split() {
        let frames = vec![
            Frame::control(&serde_json::json!({"op": "exec"})),
            Frame::Data(1, Bytes::from_static(b"\0\xff")),
            Frame::Data(255, Bytes::new()),
        ];
        let mut wire = BytesMut::new();
        for frame in &frames {
            FrameCodec.encode(frame.clone(), &mut wire).unwrap();
        }
        let (mut seen, mut buffer) = (Vec::new(), BytesMut::new());
        for byte in wire {
            buffer.put_u8(byte);
            seen.extend(FrameCodec.decode(&mut buffer).unwrap());
        }
        assert_eq!(seen, frames);
    }

    #[test]
    fn oversized_length_is_refused_before_allocation() {
        for (kind, length) in [(0, MAX_CONTROL as u32 + 1), (1, MAX_DATA as u32 + 1), (7, u32::MAX)] {
            let mut wire = BytesMut::new();
            wire.put_u8(kind);
            wire.put_u32(length);
            assert!(matches!(FrameCodec.decode(&mut wire), Err(FrameError::TooLong { .. })));
            assert!(wire.capacity() < 4096);
        }
    }

    #[test]
    fn truncated_frame_is_an_error() {
        let mut wire = BytesMut::new();
        FrameCodec.encode(Frame::Data(1, Bytes::from_static(b"hello")), &mut wire).unwrap();
        wire.truncate(wire.len() - 1);
        assert!(matches!(decode_all(wire), Err(FrameError::Ended)));
    }

    #[test]
    fn invalid_json_message_is_an_error() {
        let deep = Frame::Control(Bytes::from("[".repeat(100_000)));
        assert!(deep.message::<serde_json::Value>().is_err());
        assert!(Frame::Control(Bytes::from_static(b"\"\xff\"")).message::<String>().is_err());
        assert!(Frame::Data(1, Bytes::new()).message::<String>().is_err());
    }

    const WORDS: [&str; 8] = [
        "{\"ok\":{\"pid\":1}}",
        "{\"type\":\"exited\",\"code\":3}",
        "{\"type\":\"stdin_taken\",\"bytes\":-1}",
        "{\"op\":\"exec\",\"argv\":[]}",
        "{\"type\":\"compared\",\"conflicts\":[{}]}",
        "[[[[",
        "\"\\ud800\"",
        "1e999",
    ];

    /// Headers that may be meant, lengths that may be true, and JSON that is nearly a message:
    /// noise alone gets past no header.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let noise = vec(any::<u8>(), 0..64);
        let payload = prop_oneof![noise.clone(), select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec())];
        let frame = (0u8..4, payload, -2i64..3).prop_map(|(kind, payload, off)| {
            let length = (payload.len() as i64 + off).max(0) as u32;
            [&[kind][..], &length.to_be_bytes(), &payload].concat()
        });
        vec(prop_oneof![3 => frame, 1 => noise], 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

        #[test]
        fn any_bytes_decode_to_frames_or_an_error(bytes in wire(), cuts in vec(0usize..40, 0..8)) {
            let all = decode_all(BytesMut::from(&bytes[..]));
            // Its parts say the same, wherever it is cut.
            let (mut buffer, mut rest, mut seen) = (BytesMut::new(), &bytes[..], Vec::new());
            let mut failed = false;
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (part, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                buffer.extend_from_slice(part);
                while !failed {
                    match FrameCodec.decode(&mut buffer) {
                        Ok(Some(frame)) => seen.push(frame),
                        Ok(None) => break,
                        Err(_) => failed = true,
                    }
                }
            }
            match all {
                Ok(frames) => prop_assert!(!failed && buffer.is_empty() && frames == seen),
                Err(_) => prop_assert!(failed || !buffer.is_empty()),
            }
            for frame in &seen {
                // Each end reads what the other may send as its own types; that it makes no sense
                // is an error like any.
                let _ = frame.message::<protocol::AgentRequest>();
                let _ = frame.message::<protocol::AgentReply<protocol::exec::Started>>();
                let _ = frame.message::<protocol::exec::FromCommand>();
                let _ = frame.message::<protocol::exec::ToCommand>();
                let _ = frame.message::<protocol::sync::FromSync>();
                if let Frame::Data(_, data) = frame {
                    let _ = postcard::from_bytes::<Vec<protocol::sync::Item>>(data);
                }
            }
        }
    }
}
