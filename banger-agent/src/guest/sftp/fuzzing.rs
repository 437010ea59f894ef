//! Fuzz targets: see [`crate::fuzzing`].

use super::wire::{Answer, Fields, kind};
use super::*;

/// Kinds of packets that change nothing, whatever they name.
const HARMLESS: [u8; 11] = [
    kind::INIT,
    kind::CLOSE,
    kind::READ,
    kind::WRITE,
    kind::LSTAT,
    kind::STAT,
    kind::FSTAT,
    kind::OPENDIR,
    kind::READDIR,
    kind::REALPATH,
    kind::READLINK,
];

/// Packets, each after a length of two bytes. What changes no file is served: its answer has its
/// own length, the request's number, and no more bytes than a packet may have. Of others the
/// fields are read.
pub fn sftp(data: &[u8]) {
    let (mut server, mut rest) = (Server::default(), data);
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (packet, after) = after.split_at(after.len().min(u16::from_be_bytes(*length).into()));
        rest = after;
        let Some((kind, fields)) = packet.split_first() else { continue };
        if HARMLESS.contains(kind) {
            if let Some(answer) = server.answer(packet) {
                assert_eq!(answer[..4], (answer.len() as u32 - 4).to_be_bytes());
                assert!(*kind == kind::INIT || answer[5..9] == fields[..4]);
                assert!(answer.len() <= MAX_PACKET + 4, "an answer of {} bytes", answer.len());
            }
            continue;
        }
        let mut fields = Fields(fields);
        while !fields.0.is_empty() {
            let before = fields.0.len();
            let _ = (fields.bytes(), fields.attributes(), fields.long(), fields.number());
            if fields.0.len() == before {
                break;
            }
        }
    }
}

/// Inputs to start from.
pub(crate) fn sftp_seeds() -> Vec<Vec<u8>> {
    let packet = |kind: u8, fill: &dyn Fn(&mut Answer)| {
        let mut request = Answer::new(kind, 9);
        fill(&mut request);
        let bytes = request.finish();
        [&(bytes.len() as u16 - 4).to_be_bytes()[..], &bytes[4..]].concat()
    };
    let path = |kind: u8, path: &str| packet(kind, &|request| request.bytes(path.as_bytes()));
    let handle = |kind: u8| path(kind, "\0\0\0\x01");
    let read = packet(kind::READ, &|request| {
        request.bytes(b"\0\0\0\x01");
        request.long(0);
        request.number(u32::MAX);
    });
    let set = packet(kind::SETSTAT, &|request| {
        request.bytes(b"/tmp/x");
        for number in [15, 0, 4, 1, 1, 0o644, 1, 1] {
            request.number(number);
        }
    });
    vec![
        [packet(kind::INIT, &|_| ()), path(kind::OPENDIR, "/"), handle(kind::READDIR), handle(kind::CLOSE)].concat(),
        [path(kind::OPENDIR, "/"), read, handle(kind::FSTAT), path(kind::REALPATH, "x/../y")].concat(),
        [path(kind::STAT, "/"), path(kind::LSTAT, ""), path(kind::READLINK, "/proc/self"), set].concat(),
    ]
}
