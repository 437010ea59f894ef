//! What a program of the host's complains of on its standard error.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::console;

/// As much of the end is kept, in bytes,
const MAX: usize = 4 << 10;
/// and as many lines shown.
const LINES: usize = 4;

/// Reads a program's standard error to its end, and keeps the last of it.
pub(crate) async fn read_end(stderr: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else { return kept };
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(MAX));
    }
    kept
}

/// The last lines of a complaint in one, made printable.
pub(crate) fn shown(complaint: &[u8]) -> String {
    console::last_lines(complaint, LINES).join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_of_a_long_complaint_is_kept_and_its_last_lines_are_shown() {
        let lines: String = (0..10_000).map(|number| format!("line {number}\n")).collect();
        let kept = read_end(Some(lines.as_bytes())).await;
        assert_eq!(kept, &lines.as_bytes()[lines.len() - MAX..]);
        assert_eq!(shown(&kept), "line 9996; line 9997; line 9998; line 9999");
        assert_eq!(read_end(None::<&[u8]>).await, b"");
    }
}
