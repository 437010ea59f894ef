//! Prints what inotify(7) says of a file, COUNT times: `seen DIRECTORY NAME COUNT`. Before that it
//! prints that it watches.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

unsafe extern "C" {
    fn inotify_init1(flags: i32) -> i32;
    fn inotify_add_watch(fd: i32, path: *const std::ffi::c_char, mask: u32) -> i32;
}

/// Names of the events, by their bits.
const EVENTS: [(u32, &str); 5] =
    [(0x2, "modify"), (0x8, "close_write"), (0x80, "moved_to"), (0x100, "create"), (0x200, "delete")];

fn main() {
    let [directory, name, count] = [1, 2, 3].map(|index| std::env::args().nth(index).expect("an argument"));
    let path = CString::new(directory).unwrap();
    // SAFETY: the path is a string with an end; the descriptor is nobody else's.
    let mut events = unsafe {
        let fd = inotify_init1(0);
        assert!(inotify_add_watch(fd, path.as_ptr(), 0x38a) >= 0);
        File::from_raw_fd(fd)
    };
    println!("watches");
    let mut left: u32 = count.parse().unwrap();
    let mut buffer = [0; 65536];
    while left > 0 {
        let count = events.read(&mut buffer).unwrap();
        let mut rest = &buffer[..count];
        while rest.len() >= 16 {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let (mask, length) = (word(4), word(12) as usize);
            let found = String::from_utf8_lossy(&rest[16..16 + length]).trim_end_matches('\0').to_owned();
            if found == name
                && let Some((_, event)) = EVENTS.iter().find(|(bit, _)| mask & bit != 0)
            {
                println!("{event} {found}");
                left = left.saturating_sub(1);
            }
            rest = &rest[16 + length..];
        }
    }
}
