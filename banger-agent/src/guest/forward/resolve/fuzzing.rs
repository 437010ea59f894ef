//! Fuzz targets: see [`crate::fuzzing`].

use super::*;

/// An answer of a name server after the number of its question (two bytes), and the same bytes as
/// hosts(5), as resolv.conf(5) and as a name. An answer has no more addresses than bytes for them.
pub fn dns(data: &[u8]) {
    let name = Name::from_ascii("a.bc.").expect("a name");
    if let [high, low, answer @ ..] = data {
        // Of a record: a name of one byte, ten bytes of head, and four of an address.
        for kind in [RecordType::A, RecordType::AAAA] {
            let mut asked = question(&name, kind);
            asked.metadata.id = u16::from_be_bytes([*high, *low]);
            if let Some(Answer::Addresses(found)) = answer_in(answer, &asked) {
                assert!(found.len() <= answer.len() / 15, "{} addresses", found.len());
            }
        }
    }
    let text = String::from_utf8_lossy(data);
    let host = text.lines().next().unwrap_or_default();
    let _ = in_hosts(&text, host);
    let configuration = parsed(data);
    assert!(name_servers(&configuration).len() <= MAX_SERVERS);
    for name in candidates(&configuration, host).unwrap_or_default() {
        let query = bytes_of(&question(&name, RecordType::A)).expect("a name can be asked for");
        assert!(query.len() <= MAX_ANSWER, "a query of {} bytes", query.len());
    }
}

/// Inputs to start from.
pub(crate) fn dns_seeds() -> Vec<Vec<u8>> {
    let mut asked = question(&Name::from_ascii("a.bc.").expect("a name"), RecordType::A);
    asked.metadata.id = 7;
    let mut answer = bytes_of(&asked).expect("a query");
    (answer[2], answer[7]) = (0x81, 3);
    answer.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x04\x01x\xc0\x0e");
    answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x0a\0\0\x07");
    answer.extend(b"\xc0\x0c\0\x1c\0\x01\0\0\0\x01\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    vec![
        [&7u16.to_be_bytes()[..], &answer].concat(),
        b"db\n10.0.0.7 db DB.lan # the database\n::2 db\n".to_vec(),
        b"h\nsearch a.example b.example\nnameserver 10.0.2.3\nnameserver ::1\n".to_vec(),
        b"a.example.".to_vec(),
    ]
}
