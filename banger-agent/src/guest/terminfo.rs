//! The entry of the user's terminal in the guest's terminfo database.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use banger_util::file::{AtomicFile, Durability};

use crate::protocol::{AgentFailure, AgentFailureKind};
use crate::terminfo::{Terminfo, places};

/// Where the entry is put, below the root directory.
const PLACE: &str = "etc/terminfo";
/// Where images have their own: ncurses(3X) of Debian, Fedora, Alpine and Arch.
const OF_IMAGES: [&str; 4] = ["usr/share/terminfo", "lib/terminfo", "usr/lib/terminfo", "usr/local/share/terminfo"];

/// Puts the entry into `/etc/terminfo`, unless the guest knows the terminal. Says whether the one
/// there is what to go by.
pub(super) fn install(request: &Terminfo) -> Result<bool, AgentFailure> {
    if !request.is_valid() {
        return Err(AgentFailure::new(AgentFailureKind::BadRequest, "that is no entry of a terminal".to_owned()));
    }
    put(Path::new("/"), request).map_err(|error| {
        AgentFailure::new(
            AgentFailureKind::Other,
            format!("cannot put the terminal's entry into `/{PLACE}` in the guest: {error}"),
        )
    })
}

fn put(root: &Path, request: &Terminfo) -> io::Result<bool> {
    let places = places(&request.name);
    let is_in = |folder: &str| places.iter().any(|place| root.join(folder).join(place).exists());
    if is_in(PLACE) {
        return Ok(true);
    }
    if OF_IMAGES.into_iter().any(is_in) {
        return Ok(false);
    }
    let place = root.join(PLACE).join(&places[0]);
    fs::create_dir_all(place.parent().unwrap_or(root))?;
    let mut file = AtomicFile::create(&place, 0o644)?;
    file.write_all(&request.entry.0)?;
    // For every user of the guest, whatever the umask.
    file.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
    file.replace(Durability::Unsynced)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::WireBytes;

    #[test]
    fn terminfo_entry_is_installed_where_image_lacks_it() {
        let root = tempfile::tempdir().unwrap();
        let of = |name: &str| Terminfo { name: name.into(), entry: WireBytes(vec![0x1e, 2, 3]) };
        for _ in 0..2 {
            assert!(put(root.path(), &of("xterm-kitty")).unwrap());
        }
        let place = root.path().join("etc/terminfo/x/xterm-kitty");
        assert_eq!(fs::read(&place).unwrap(), [0x1e, 2, 3]);
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o644);
        // One that is there stays as it is, and one of the image's own is enough.
        fs::write(&place, "own").unwrap();
        assert!(put(root.path(), &of("xterm-kitty")).unwrap());
        assert_eq!(fs::read(&place).unwrap(), b"own");
        fs::create_dir_all(root.path().join("usr/share/terminfo/66")).unwrap();
        fs::write(root.path().join("usr/share/terminfo/66/foot"), "").unwrap();
        assert!(!put(root.path(), &of("foot")).unwrap());
        assert!(!root.path().join("etc/terminfo/f").exists());
    }

    #[test]
    fn invalid_terminfo_entry_is_refused() {
        let request = Terminfo { name: "../x".into(), entry: WireBytes(vec![0x1e, 2]) };
        assert_eq!(install(&request).unwrap_err().kind, AgentFailureKind::BadRequest);
    }
}
