//! Agents that drip, and that go on for ever.

use std::thread;

use banger_agent::protocol::Stat;

use super::*;

const SHORT: Limits = Limits { silence: Duration::from_secs(20), frame: Duration::from_millis(200) };

/// An operation whose agent sends `first`, and then a space every few milliseconds for as long as
/// there is somebody to read.
fn call(first: &'static [u8], limits: Limits) -> Call {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut request = [0; 4096];
        let _ = theirs.read(&mut request);
        let mut sent = theirs.write_all(first);
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(5));
            sent = theirs.write_all(b" ");
        }
    });
    Call::on(ours, &AgentRequest::Stat, limits).unwrap()
}

#[track_caller]
fn is_silent<T: std::fmt::Debug>(start: Instant, received: Result<T, AgentError>) {
    assert!(matches!(received, Err(AgentError::Silent)), "{received:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn dripping_reply_times_out() {
    let start = Instant::now();
    let mut whole = call(b"\0\0\x0f\0\0", Limits { frame: Duration::from_secs(600), ..SHORT });
    is_silent(start, whole.answer_within::<Stat>(Duration::from_millis(300)));
    is_silent(start, call(b"\0\0\x0f\0\0", SHORT).answer::<Stat>());
}

#[test]
fn dripping_frame_times_out_even_without_idle_limit() {
    let limits = Limits { silence: Duration::MAX, ..SHORT };
    let mut call = call(b"\x01\0\0\0\x02hi\x01\0\x02\0\0", limits);
    assert!(matches!(call.receive(), Ok(Some(Frame::Data(1, bytes))) if *bytes == *b"hi"));
    is_silent(Instant::now(), call.receive());
}

#[test]
fn endless_frames_stop_at_the_overall_deadline() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || while theirs.write_all(b"\x01\0\0\0\0").is_ok() {});
    let mut call = Call::on(ours, &AgentRequest::Stat, SHORT).unwrap();
    call.end_within(Duration::from_millis(200));
    let start = Instant::now();
    let error = loop {
        match call.receive() {
            Ok(Some(Frame::Data(1, _))) => {}
            other => break other,
        }
    };
    is_silent(start, error);
}

#[test]
fn write_to_a_full_socket_times_out() {
    let (mut ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = write_within(&mut ours, &vec![0; 4 << 20], Duration::from_millis(100)).unwrap_err();
    assert!(matches!(AgentError::from(error), AgentError::Silent));
}
