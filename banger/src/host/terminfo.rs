//! The user's terminal, as programs in the guest know it: the entry of this machine's terminfo
//! database goes along.
//!
//! Images know a few terminals. kitty, ghostty, alacritty, foot and wezterm bring entries of their
//! own to the machine that they run on, and without them `clear` fails and `less` asks for RETURN.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_agent::protocol::{AgentRequest, WireBytes};
use banger_agent::terminfo::{MAX_ENTRY, Terminfo, is_name, places};
use nix::libc;

/// Where programs in the guest look for entries, besides where their libraries were made to:
/// terminfo(5). The entry is there; what follows the colon, nothing, is the library's own list.
const VARIABLE: (&str, &str) = ("TERMINFO_DIRS", "/etc/terminfo:");
/// Directories of this machine, after those that its environment names: ncurses(3X), as
/// distributions configure it.
const DIRECTORIES: [&str; 5] =
    ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "/usr/lib/terminfo", "/usr/local/share/terminfo"];

/// What the guest is to be asked before a command whose variables are `env` gets a terminal; none:
/// this machine does not know it. `variable` is this machine's environment.
pub fn request(env: &[(WireBytes, WireBytes)], variable: impl Fn(&str) -> Option<OsString>) -> Option<AgentRequest> {
    let name = env.iter().rev().find(|(name, _)| name.0 == b"TERM").map(|(_, name)| &name.0)?;
    let name = std::str::from_utf8(name).ok().filter(|name| is_name(name))?;
    find(name, &directories(variable)).map(AgentRequest::Terminfo)
}

/// What a command needs besides, if the guest has the entry of this machine; nothing if somebody
/// has said it already.
pub fn variables(env: &[(WireBytes, WireBytes)]) -> Option<(WireBytes, WireBytes)> {
    let is_said = env.iter().any(|(name, _)| name.0 == b"TERMINFO" || name.0 == VARIABLE.0.as_bytes());
    (!is_said).then(|| (VARIABLE.0.into(), VARIABLE.1.into()))
}

/// Where this machine's programs look, in their order: terminfo(5), "Fetching Compiled
/// Descriptions".
fn directories(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let own = variable("TERMINFO").map(PathBuf::from);
    let home = variable("HOME").map(|home| Path::new(&home).join(".terminfo"));
    let listed = variable("TERMINFO_DIRS");
    let listed = listed.iter().flat_map(std::env::split_paths);
    let all = own.into_iter().chain(home).chain(listed).chain(DIRECTORIES.map(PathBuf::from));
    // A relative one, and an entry itself in place of a directory, lead nowhere.
    all.filter(|directory| directory.is_absolute()).collect()
}

fn find(name: &str, directories: &[PathBuf]) -> Option<Terminfo> {
    let places = places(name);
    let paths = directories.iter().flat_map(|directory| places.iter().map(|place| directory.join(place)));
    let read = |path: PathBuf| {
        // What is no file, such as a pipe, is not waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let mut entry = Vec::new();
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        file.take(MAX_ENTRY as u64 + 1).read_to_end(&mut entry).ok()?;
        Some(Terminfo { name: name.to_owned(), entry: WireBytes(entry) }).filter(Terminfo::is_valid)
    };
    paths.filter_map(read).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminfo_entry_is_found_as_in_ncurses() {
        let folder = tempfile::tempdir().unwrap();
        let put = |directory: &str, place: &str, entry: &[u8]| {
            let path = folder.path().join(directory).join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, entry).unwrap();
        };
        put("home/.terminfo", "x/xterm-kitty", b"\x1a\x01home");
        put("own", "78/xterm-kitty", b"\x1a\x01own");
        put("listed", "x/xterm-ghostty", b"\x1a\x01listed");
        put("home/.terminfo", "x/x-text", b"no entry");
        put("secret", "s", b"\x1a\x01");
        let asked = |term: &str, own: &str| {
            let variable = |name: &str| match name {
                "TERMINFO" => Some(own).filter(|own| !own.is_empty()).map(|own| folder.path().join(own).into()),
                "HOME" => Some(folder.path().join("home").into()),
                "TERMINFO_DIRS" => Some(format!("relative::{}", folder.path().join("listed").display()).into()),
                _ => None,
            };
            let env = [("TERM".into(), "former".into()), ("TERM".into(), term.into())];
            match request(&env, variable) {
                Some(AgentRequest::Terminfo(found)) => Some(found.entry.to_string().split_off(2)),
                _ => None,
            }
        };
        assert_eq!(asked("xterm-kitty", "").as_deref(), Some("home"));
        assert_eq!(asked("xterm-kitty", "own").as_deref(), Some("own"));
        assert_eq!(asked("xterm-ghostty", "").as_deref(), Some("listed"));
        for none in ["x-text", "no-such-terminal", "../../secret/s", "", "former/../x"] {
            assert_eq!(asked(none, ""), None, "{none}");
        }
        assert!(request(&[], |_| None).is_none());
    }

    #[test]
    fn explicit_terminfo_variables_take_precedence() {
        assert_eq!(variables(&[]), Some(("TERMINFO_DIRS".into(), "/etc/terminfo:".into())));
        assert_eq!(variables(&[("TERMINFO".into(), "/x".into())]), None);
        assert_eq!(variables(&[("TERMINFO_DIRS".into(), "/x".into())]), None);
    }
}
