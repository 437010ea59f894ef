//! Fuzz targets for what this crate reads of the other end. `fuzz/` runs them under libFuzzer, and
//! the test `fuzzing` of `banger-tests` for a bounded number of inputs. `docs/fuzzing.md` says how.
//!
//! A target takes any bytes and panics if a promise is broken. It never fails on bad input.

use std::cell::OnceCell;
use std::fmt::Debug;
use std::io::Cursor;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::{Decoder, Encoder};

use crate::copy::{Entries, Entry, EntryKind, MAX_PIECE, write_piece};
use crate::frame::{Frame, FrameCodec, MAX_CONTROL};
use crate::link::{self, GuestHello, HostHello, Mux, PROTOCOL};
use crate::protocol::{self, AgentReply, AgentRequest, copy, exec, forward, sync};
use crate::rooted_dir::is_plain;

pub use crate::guest::fuzzing::{dns, records, sftp};

/// A target: its name, its function, and inputs to start from.
pub type Target = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

/// All targets of this crate.
pub fn targets() -> Vec<Target> {
    use crate::guest::fuzzing::{dns_seeds, records_seeds, sftp_seeds};
    vec![
        ("frames", frames, frames_seeds()),
        ("protocol", protocol, protocol_seeds()),
        ("link", link, link_seeds()),
        ("copy_entries", copy_entries, copy_seeds()),
        ("sftp", sftp, sftp_seeds()),
        ("dns", dns, dns_seeds()),
        ("records", records, records_seeds()),
    ]
}

/// Frames of a stream, and the messages in them. What was decoded encodes to the same bytes.
pub fn frames(data: &[u8]) {
    let (mut buffer, mut wire) = (BytesMut::from(data), BytesMut::new());
    while let Ok(Some(frame)) = FrameCodec.decode_eof(&mut buffer) {
        messages(&frame);
        FrameCodec.encode(frame, &mut wire).expect("a frame that was decoded is within the limits");
    }
    assert!(data.starts_with(&wire), "frames do not encode to what they were decoded from");
    // A header may announce as much as its kind allows, and makes no more room than that.
    assert!(buffer.capacity() <= data.len() + 2 * MAX_CONTROL, "{} bytes", buffer.capacity());
}

fn frames_seeds() -> Vec<Vec<u8>> {
    let wire = |frames: &[Frame]| {
        let mut wire = BytesMut::new();
        for frame in frames {
            FrameCodec.encode(frame.clone(), &mut wire).expect("a small frame");
        }
        wire.to_vec()
    };
    let controls: Vec<_> = protocol_seeds().into_iter().map(|json| Frame::Control(json.into())).collect();
    vec![
        wire(&controls),
        wire(&[Frame::Data(1, plan().into()), Frame::Data(255, Vec::new().into())]),
        wire(&[controls[0].clone(), Frame::Data(2, record().into()), controls[1].clone()]),
        b"\0\0\x10\0\0".to_vec(),
        b"\x01\xff\xff\xff\xff".to_vec(),
    ]
}

/// One message: JSON of every type of control frame, postcard of every type in data. What was
/// understood is written and understood again as the same.
pub fn protocol(data: &[u8]) {
    messages(&Frame::Control(data.to_vec().into()));
    messages(&Frame::Data(1, data.to_vec().into()));
}

fn messages(frame: &Frame) {
    if let Frame::Data(_, data) = frame {
        packed::<Vec<sync::Item>>(data);
        packed::<Vec<sync::SeedEntry>>(data);
        packed::<sync::Record>(data);
        return;
    }
    json::<AgentRequest>(frame);
    json::<AgentReply<exec::Started>>(frame);
    json::<AgentReply<sync::Begun>>(frame);
    json::<AgentReply<sync::GuestOnly>>(frame);
    json::<AgentReply<copy::Source>>(frame);
    json::<AgentReply<forward::Listening>>(frame);
    json::<AgentReply<forward::Listeners>>(frame);
    json::<AgentReply<protocol::FileInfo>>(frame);
    json::<AgentReply<protocol::Readiness>>(frame);
    json::<AgentReply<protocol::Stat>>(frame);
    json::<exec::FromCommand>(frame);
    json::<exec::ToCommand>(frame);
    json::<sync::FromSync>(frame);
    json::<sync::ToSync>(frame);
    json::<copy::FromCopy>(frame);
    json::<copy::ToCopy>(frame);
    json::<forward::Incoming>(frame);
    json::<forward::Listeners>(frame);
    json::<forward::Ended>(frame);
}

fn json<T: Serialize + DeserializeOwned>(frame: &Frame) {
    if let Ok(message) = frame.message::<T>() {
        let written = Frame::control(&message);
        let read: T = written.message().expect("what was written can be read");
        assert_eq!(Frame::control(&read), written);
    }
}

fn packed<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = postcard::from_bytes::<T>(data) {
        let written = postcard::to_stdvec(&value).expect("plain data has a postcard form");
        assert_eq!(postcard::from_bytes::<T>(&written).expect("what was written can be read"), value);
    }
}

fn protocol_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        r#"{"op":"exec","argv":["sh",{"hex":"ff"}],"env":[["A","b"]],"cwd":"/","make_cwd":true,"user":"0:0","tty":{"rows":2,"columns":80}}"#,
        r#"{"op":"sync","root":"/w","alias":null,"base":"1","generation":"2","excludes":"*.o","clock_ns":-1}"#,
        r#"{"op":"listen","at":{"tcp":{"host":"","port":0}},"user":null}"#,
        r#"{"op":"copy_in","path":"/a","source":{"name":"n","is_folder":true,"contents":false}}"#,
        r#"{"ok":{"pid":1}}"#,
        r#"{"ok":{"mode":"delta","seed":true,"lost":["a/.git"],"guest_only":{"files":18446744073709551615,"references":1}}}"#,
        r#"{"ok":{"name":"n","is_folder":true,"contents":true}}"#,
        r#"{"ok":{"at":{"unix":{"path":"/run/x"}}}}"#,
        r#"{"ok":{"ports":[1,65535]}}"#,
        r#"{"ok":{"counts":{"files":1,"references":0},"named":["a",{"hex":"fe"}]}}"#,
        r#"{"error":{"kind":"no_space","message":"full"}}"#,
        r#"{"type":"exited","code":3}"#,
        r#"{"type":"exited","signal":9}"#,
        r#"{"type":"stdin_taken","bytes":7}"#,
        r#"{"type":"compared","conflicts":[{"path":"a","guest":"added","host":"deleted"}],"conflict_count":1,"now_ns":5}"#,
        r#"{"type":"applied","written":1,"deleted":0,"references":0,"kept":0}"#,
        r#"{"type":"done","files":1,"folders":1,"links":0,"bytes":4,"skipped":0}"#,
        r#"{"token":1,"address":"127.0.0.1","port":1}"#,
        r#""ended""#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    seeds.extend([plan(), record()]);
    seeds
}

fn plan() -> Vec<u8> {
    let put = sync::Change::Put {
        digest: [1; 32],
        kind: sync::Kind::File(0o644),
        base: None,
        verdict: sync::Verdict::Compare,
    };
    let name = "refs/heads/main".to_owned();
    let items: Vec<_> = [
        put,
        sync::Change::Delete { base: Some([2; 32]) },
        sync::Change::Object { size: 1 << 40 },
        sync::Change::Folder,
        sync::Change::Ref { name, base: None, new: Some("ref: x".into()) },
    ]
    .into_iter()
    .map(|change| sync::Item { path: b"a/b".to_vec(), change })
    .collect();
    postcard::to_stdvec(&items).expect("plain data has a postcard form")
}

fn record() -> Vec<u8> {
    let kind = sync::RecordKind::Content(sync::Kind::Link);
    let record = sync::Record { path: b"a".to_vec(), kind, mtime_ns: -1, size: 3 };
    postcard::to_stdvec(&record).expect("plain data has a postcard form")
}

fn runtime<T>(run: impl FnOnce(&Runtime) -> T) -> T {
    thread_local!(static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() });
    RUNTIME
        .with(|cell| run(cell.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"))))
}

/// The link: greetings of both ends, and the multiplexer with streams open. Ends with the input.
pub fn link(data: &[u8]) {
    let host = HostHello { nonce: "n1".into(), version: "0".into(), protocol: PROTOCOL, clock_ns: 1, identity: None };
    let pipe = || tokio::io::join(Cursor::new(data.to_vec()), tokio::io::sink());
    runtime(|runtime| {
        runtime.block_on(async {
            if let Ok(hello) = link::handshake(&mut pipe(), &host).await {
                assert_eq!((hello.nonce.as_str(), hello.protocol), ("n1", PROTOCOL));
            }
            let hello = |host: &HostHello| GuestHello {
                nonce: host.nonce.clone(),
                version: "0".into(),
                protocol: PROTOCOL,
                uptime_ms: 1,
            };
            let _ = link::answer(&mut BufReader::new(pipe()), hello).await;

            let (mux, driver) = Mux::host(pipe());
            let streams = async {
                let mut streams = Vec::new();
                while streams.len() < 3
                    && let Ok(stream) = mux.open().await
                {
                    streams.push(stream);
                }
                let mut received = 0;
                for stream in &mut streams {
                    let mut buffer = Vec::new();
                    let _ = stream.read_to_end(&mut buffer).await;
                    received += buffer.len();
                }
                received
            };
            let (_, received) = tokio::join!(driver, streams);
            assert!(received <= data.len(), "{received} bytes came of {}", data.len());

            let mut accepted = Vec::new();
            link::serve(pipe(), |stream| accepted.push(stream)).await;
            // A stream is opened by a frame, which has a header of twelve bytes.
            assert!(accepted.len() <= data.len() / 12);
        });
    });
}

fn link_seeds() -> Vec<Vec<u8>> {
    // https://github.com/hashicorp/yamux/blob/master/spec.md: version, type, flags, stream, length.
    let frame = |kind: u8, flags: u16, id: u32, length: u32, payload: &[u8]| {
        [&[0, kind], &flags.to_be_bytes()[..], &id.to_be_bytes(), &length.to_be_bytes(), payload].concat()
    };
    let data = |id: u32, payload: &[u8]| frame(0, 0, id, payload.len() as u32, payload);
    vec![
        b"\nbanger {\"nonce\":\"n1\",\"version\":\"0\",\"protocol\":1,\"uptime_ms\":1}\n".to_vec(),
        b"x\nbanger {\"nonce\":\"n2\",\"version\":\"0\",\"protocol\":1,\"clock_ns\":1}\n".to_vec(),
        [frame(1, 2, 1, 0, b""), data(1, b"hello"), data(3, b"x"), frame(0, 4, 1, 0, b"")].concat(),
        [frame(2, 1, 0, 7, b""), frame(1, 0, 1, 1 << 18, b""), frame(1, 8, 5, 0, b"")].concat(),
        [frame(1, 1, 1, 0, b""), data(1, b"abc"), frame(1, 1, 3, 0, b""), frame(3, 0, 0, 0, b"")].concat(),
        (0..64).flat_map(|byte| data(1 + 2 * (byte % 3), &[byte as u8])).collect(),
    ]
}

/// The entries of a copy, announced as a directory and as something else. Paths lead nowhere else,
/// pieces are in order and within the file, and what was read is written as what reads the same.
pub fn copy_entries(data: &[u8]) {
    let mut buffer = Box::new([0; MAX_PIECE]);
    for is_folder in [false, true] {
        let mut input = data;
        let mut entries = Entries::new(&mut input, is_folder);
        let mut count = 0;
        while let Ok(Some(entry)) = entries.entry() {
            assert!(if count == 0 { entry.path.is_empty() } else { is_folder && is_plain(&entry.path) }, "{entry:?}");
            count += 1;
            if let EntryKind::HardLink { target } = &entry.kind {
                assert!(is_plain(target), "{entry:?}");
                continue;
            }
            // As the first of a copy, which has no path.
            let alone = Entry { path: Vec::new(), ..entry.clone() };
            let mut written = Vec::new();
            alone.write(&mut written).expect("memory has room");
            let is_folder = matches!(entry.kind, EntryKind::Folder { .. });
            let read = Entries::new(&mut &written[..], is_folder).entry().expect("what was written can be read");
            assert_eq!(read, Some(alone));
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let mut end = 0;
            while let Ok(piece) = entries.piece(&mut buffer) {
                assert!(piece.offset >= end && piece.length <= MAX_PIECE);
                end = piece.offset + piece.length as u64;
                assert!(end <= size, "{end} of {size} bytes");
                if piece.length == 0 {
                    break;
                }
            }
        }
    }
}

fn copy_seeds() -> Vec<Vec<u8>> {
    let stream = |entries: &[(&str, EntryKind)]| {
        let mut out = Vec::new();
        for (path, kind) in entries {
            let entry = Entry { path: path.as_bytes().to_vec(), kind: kind.clone(), mtime_ns: 1 };
            entry.write(&mut out).expect("memory has room");
            if matches!(kind, EntryKind::File { .. }) {
                for (offset, bytes) in [(0, &b"evil"[..]), (9, b"x"), (10, b"")] {
                    write_piece(&mut out, offset, bytes).expect("memory has room");
                }
            }
        }
        out
    };
    let (folder, file) = (EntryKind::Folder { mode: 0o755 }, EntryKind::File { mode: 0o644, size: 10 });
    let link = EntryKind::Link { target: b"../x".to_vec() };
    let hard_link = EntryKind::HardLink { target: b"a/f".to_vec() };
    vec![
        stream(&[("", folder.clone()), ("a", folder.clone()), ("a/f", file.clone()), ("l", link), ("h", hard_link)]),
        stream(&[("", file.clone())]),
        stream(&[("", folder), ("../f", file)]),
    ]
}
