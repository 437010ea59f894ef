//! What small mux frames cost the host, and that none is lost. One process for each test: memory is
//! measured.

use std::io::{self, ErrorKind};
use std::time::Duration;

use banger_agent::link::{self, LinkError, MAX_STREAMS, Mux, MuxStream};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DATA: u8 = 0;
const PING: u8 = 2;
const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// A host's link, and the pipe on which a guest would speak.
struct Link {
    mux: Mux,
    driver: JoinHandle<LinkError>,
    /// Tells that the host has taken all that was sent before a ping.
    answered: oneshot::Receiver<()>,
    pipe: OwnedWriteHalf,
}

fn link() -> Link {
    let (host, guest) = UnixStream::pair().unwrap();
    let (mux, driver) = Mux::host(host);
    let (reader, pipe) = guest.into_split();
    let (sender, answered) = oneshot::channel();
    tokio::spawn(wait_for_pong(reader, sender));
    Link { mux, driver: tokio::spawn(driver), answered, pipe }
}

async fn wait_for_pong(mut reader: OwnedReadHalf, answered: oneshot::Sender<()>) -> io::Result<()> {
    let mut header = [0; 12];
    loop {
        reader.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        match header[1] {
            DATA => drop(tokio::io::copy(&mut (&mut reader).take(length.into()), &mut tokio::io::sink()).await?),
            PING if u16::from_be_bytes([header[2], header[3]]) == ACK => break,
            _ => {}
        }
    }
    let _ = answered.send(());
    // What the host still says is read, so that it never waits.
    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await.map(drop)
}

/// A mux frame.
fn frame(kind: u8, flags: u16, id: u32, payload: &[u8], length: u32) -> Vec<u8> {
    [&[0, kind][..], &flags.to_be_bytes(), &id.to_be_bytes(), &length.to_be_bytes(), payload].concat()
}

fn data(id: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, id, payload, payload.len() as u32)
}

/// The streams that a host has opened, in the order of their numbers: 1, 3, 5, …
async fn open(mux: &Mux, count: usize) -> Vec<MuxStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = mux.open().await.unwrap();
        stream.write_all(b"hi").await.unwrap();
        stream.flush().await.unwrap();
        streams.push(stream);
    }
    streams
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn one_byte_frames_on_all_streams_use_bounded_memory() {
    // Of each stream, a part of what its window allows.
    const EACH: usize = 8 << 10;
    let Link { mux, driver, answered, mut pipe } = link();
    let mut streams = open(&mux, MAX_STREAMS).await;
    let before = peak_memory();
    for number in 0..MAX_STREAMS as u32 {
        let frame = data(1 + 2 * number, b"x");
        pipe.write_all(&frame.repeat(EACH)).await.unwrap();
    }
    pipe.write_all(&frame(PING, SYN, 0, &[], 7)).await.unwrap();
    answered.await.unwrap();
    let grown = peak_memory() - before;
    assert!(grown < 12 << 20, "{} MiB for {} MiB", grown >> 20, (EACH * MAX_STREAMS) >> 20);
    for stream in &mut streams {
        let mut all = vec![0; EACH];
        stream.read_exact(&mut all).await.unwrap();
        assert!(all.iter().all(|byte| *byte == b'x'));
    }
    assert!(!driver.is_finished());
}

#[tokio::test]
async fn peer_exceeding_buffer_limit_ends_the_link() {
    let Link { mux, driver, mut pipe, .. } = link();
    let _streams = open(&mux, 1).await;
    // From here on what comes waits for its reader, which is none.
    let mut sent = pipe.write_all(&data(1, b"x").repeat(1000)).await;
    let large = data(1, &[b'x'; 64 << 10]);
    for _ in 0..1000 {
        sent = sent.and(pipe.write_all(&large).await);
    }
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let error = driver.await.unwrap().to_string();
    assert!(error.contains("more than there is room for"), "{error}");
}

#[tokio::test]
async fn slow_reader_receives_bytewise_output_in_full() {
    const BYTES: usize = 20_000;
    let (host, guest) = UnixStream::pair().unwrap();
    let (mux, driver) = Mux::host(host);
    let driver = tokio::spawn(driver);
    tokio::spawn(link::serve(guest, |mut stream| {
        tokio::spawn(async move {
            for number in 0..BYTES {
                stream.write_all(&[number as u8]).await.unwrap();
                stream.flush().await.unwrap();
            }
            stream.shutdown().await.unwrap();
            // Until the host has gone too.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
    }));
    let mut streams = open(&mux, 5).await;
    // The last one is read while the others are not: nobody waits for another's reader.
    while let Some(mut stream) = streams.pop() {
        let mut all = Vec::new();
        timeout(Duration::from_secs(60), stream.read_to_end(&mut all)).await.unwrap().unwrap();
        assert!(all.len() == BYTES && all.iter().enumerate().all(|(at, byte)| *byte == at as u8));
    }
    assert!(!driver.is_finished());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(30) })]

    /// Pieces of any size, on streams whose readers read any amount at any time, or leave.
    #[test]
    fn data_is_read_in_order_of_sending(
        pieces in prop::collection::vec((0_usize..3, prop_oneof![4 => 1_usize..40, 1 => 900_usize..3000]), 200..1200),
        reads in prop::collection::vec(1_usize..700, 1..50),
        leaves in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Link { mux, driver, mut pipe, .. } = link();
            let mut streams = open(&mux, 3).await;
            if leaves {
                streams.pop();
            }
            let mut sent = vec![Vec::new(); 3];
            let mut wire = Vec::new();
            for (number, (stream, size)) in pieces.into_iter().enumerate() {
                let piece = vec![number as u8; size];
                wire.extend(data(1 + 2 * stream as u32, &piece));
                // Below the window, which only readers would widen.
                if sent[stream].len() + size < 200_000 {
                    sent[stream].extend(piece);
                } else {
                    wire.truncate(wire.len() - size - 12);
                }
            }
            // A reset comes after what was sent before it, as an end does.
            for (id, end) in [(1, FIN), (3, RST), (5, FIN)] {
                wire.extend(frame(DATA, end, id, &[], 0));
            }
            let writing = async {
                for part in wire.chunks(997) {
                    pipe.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let reading = async {
                for (stream, sent) in streams.iter_mut().zip(&sent) {
                    let mut read = Vec::new();
                    let mut sizes = reads.iter().cycle();
                    loop {
                        let mut part = vec![0; *sizes.next().unwrap()];
                        let count = stream.read(&mut part).await.unwrap();
                        if count == 0 {
                            break;
                        }
                        read.extend_from_slice(&part[..count]);
                    }
                    assert!(read == *sent, "{} of {} bytes", read.len(), sent.len());
                }
            };
            timeout(Duration::from_secs(30), async { tokio::join!(writing, reading) }).await.unwrap();
            assert!(!driver.is_finished());
        });
    }
}
