//! Fuzz targets: see [`crate::fuzzing`].

use super::*;

/// The log of batches, and a batch without the checksum that guards it. A batch that was read is
/// written as what reads the same, and records that were written anew say what they said.
pub fn records(data: &[u8]) {
    let mut known = Records::default();
    let mut rest = data.strip_prefix(MAGIC).unwrap_or(data);
    while let Some((batch, after)) = decode_record(rest) {
        assert!(after.len() < rest.len());
        known.apply(batch);
        rest = after;
    }
    if let Ok(batch) = postcard::from_bytes::<Batch>(data) {
        let bytes = encode_record(&batch);
        let (read, after) = decode_record::<Batch>(&bytes).expect("what was written can be read");
        assert!(after.is_empty() && encode_record(&read) == bytes);
        known.apply(batch);
    }
    for git in known.repositories().into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>() {
        known.forget_repository(&git);
        assert!(!known.files.keys().any(|path| is_within(path, &git)));
    }
    assert!(known.repositories().is_empty());
}

/// Inputs to start from.
pub(crate) fn records_seeds() -> Vec<Vec<u8>> {
    let stamp = Stamp { size: 1, mtime_ns: 2, ctime_ns: Some(3) };
    let known = SyncedFile { digest: [1; 32], kind: Kind::File(0o644), stamp: Some(stamp) };
    let done = Batch {
        generation: Some("1".into()),
        files: vec![(b"a".to_vec(), Some(known.clone())), (b"sub/.git/x".to_vec(), Some(known)), (b"b".to_vec(), None)],
        references: vec![((b"sub/.git".to_vec(), "HEAD".into()), Some("ref: refs/heads/main".into()))],
    };
    let intent = Batch { generation: None, references: Vec::new(), ..done.clone() };
    let body = |batch: &Batch| postcard::to_stdvec(batch).expect("plain data has a postcard form");
    vec![[&MAGIC[..], &encode_record(&done), &encode_record(&intent)].concat(), body(&done), body(&intent)]
}
