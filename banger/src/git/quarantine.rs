//! A bare repository of banger's own that receives what a VM has, until git has checked it.
//!
//! It has no object of the user's, and finds them by `objects/info/alternates`: the VM sends only
//! what is new. Its configuration is empty, and so are those of system and user for the commands
//! that run in it. See gitrepository-layout(5).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use super::command::{LIMITS, Limits, run};
use super::{GitError, Repository, Result};

/// Where a quarantine has what it received, numbered.
pub(super) const RECEIVED: &str = "refs/received/";

/// The most branches and tags that a VM may have beyond those of the repository here.
const MAX_MORE_REFS: usize = 10_000;

/// The most memory that git asks for at once, in the format of git's `GIT_ALLOC_LIMIT`. git stores
/// no delta of a file above 512 MiB (`core.bigFileThreshold`), so nothing that it wrote needs more.
const ALLOC_LIMIT: &str = "1g";

/// How many lines of an error are shown, and how many characters of each.
const MESSAGE: (usize, usize) = (12, 200);

/// A VM, as git reaches it.
#[derive(Debug)]
pub struct Remote<'a> {
    /// The URL, which a remote helper serves: gitremote-helpers(7).
    pub url: &'a str,
    /// The scheme of the URL.
    pub scheme: &'a str,
    /// The environment of the remote helper. Variables of git's in it are not passed on.
    pub environment: &'a [(OsString, OsString)],
    /// How long one connection may take; none: there is no limit.
    pub time: Option<Duration>,
}

/// The quarantine for one fetch into a repository.
#[derive(Debug)]
pub struct Quarantine<'a> {
    pub(super) repository: &'a Repository,
    pub(super) git_dir: PathBuf,
}

impl<'a> Quarantine<'a> {
    /// Makes one for `repository` in `folder`, which is empty. Nothing is written elsewhere.
    ///
    /// # Errors
    /// If the repository cannot be read, or the quarantine not be written.
    pub fn create(repository: &'a Repository, folder: &Path) -> Result<Quarantine<'a>> {
        let write = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, content).map_err(|error| GitError::io("write", path, error))
        };
        for name in ["objects/info", "objects/pack", "refs"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(|error| GitError::io("make", path, error))?;
        }
        let (version, extensions) = match repository.is_sha256() {
            true => (1, "[extensions]\n\tobjectFormat = sha256\n"),
            false => (0, ""),
        };
        let config = format!("[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extensions}");
        write("config", config.as_bytes())?;
        write("HEAD", b"ref: refs/heads/none\n")?;
        write("objects/info/alternates", &alternates(&repository.object_folders()?))?;
        write("packed-refs", &host_refs(repository)?)?;
        // What is cut off here is cut off there.
        if let Some(content) = repository.boundary().read(&repository.common_dir.join("shallow"), 64 << 20)? {
            write("shallow", &content.bytes)?;
        }
        Ok(Quarantine { repository, git_dir: folder.to_owned() })
    }

    /// The refs of a VM by name, each with its object: `HEAD`, branches, tags and others.
    ///
    /// # Errors
    /// [`GitError::Fetch`] if the VM cannot be asked; [`GitError::TooManyRefs`].
    pub fn list(&self, remote: &Remote<'_>) -> Result<Vec<(Vec<u8>, String)>> {
        let output = self.of_remote(remote, &["ls-remote", "--quiet", remote.url], b"")?;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let (id, name) = (std::str::from_utf8(&line[..tab]).ok()?, &line[tab + 1..]);
            // Of a tag, git lists the commit too.
            (is_id(id) && !name.ends_with(b"^{}")).then(|| (name.to_vec(), id.to_owned()))
        });
        let refs: Vec<_> = lines.collect();
        let limit = self.repository.ref_store()?.refs.len() + MAX_MORE_REFS;
        if refs.len() > limit {
            return Err(GitError::TooManyRefs { url: remote.url.to_owned(), count: refs.len(), limit });
        }
        Ok(refs)
    }

    /// Fetches the refs of these names, with all that they lead to. git checks every object that
    /// comes (`transfer.fsckObjects`), and that none is missing. Returns the object of each, in the
    /// order of `names`.
    ///
    /// # Errors
    /// [`GitError::Fetch`] if the VM does not send them, or git refuses them.
    pub fn fetch(&self, remote: &Remote<'_>, names: &[&[u8]]) -> Result<Vec<String>> {
        let mut refspecs = Vec::new();
        for (number, name) in names.iter().enumerate() {
            refspecs.extend([b"+", *name, format!(":{RECEIVED}{number}\n").as_bytes()].concat());
        }
        let arguments = [
            "-c",
            "transfer.fsckObjects=true",
            // A pack is checked as it comes, and its large files are never in memory.
            "-c",
            "fetch.unpackLimit=1",
            "fetch",
            "--quiet",
            "--atomic",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--stdin",
            remote.url,
        ];
        self.of_remote(remote, &arguments, &refspecs)?;
        let listed = self.git(&["for-each-ref", "--format=%(objectname) %(refname)", RECEIVED])?;
        let mut received = vec![String::new(); names.len()];
        for line in String::from_utf8_lossy(&listed).lines() {
            let number = line.split_once(' ').and_then(|(id, name)| Some((id, name.strip_prefix(RECEIVED)?)));
            let place = number.and_then(|(id, number)| Some((id, received.get_mut(number.parse::<usize>().ok()?)?)));
            if let Some((id, place)) = place {
                id.clone_into(place);
            }
        }
        match received.iter().all(|id| is_id(id)) {
            true => Ok(received),
            false => Err(GitError::Fetch { url: remote.url.to_owned(), reason: "git received not all of it".into() }),
        }
    }

    /// Whether the commit `old` is `new` or one before it.
    pub(super) fn is_ancestor(&self, old: &str, new: &str) -> Result<bool> {
        let arguments = ["merge-base", "--is-ancestor", old, new];
        Ok(self.run(&arguments, b"", LIMITS, None)?.status.success())
    }

    fn git(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.run(arguments, b"", LIMITS, None)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(self.failed(arguments, String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    fn of_remote(&self, remote: &Remote<'_>, arguments: &[&str], input: &[u8]) -> Result<Output> {
        // The helper has this limit too, and says more of it.
        let time = remote.time.map_or(Duration::MAX, |time| time.saturating_add(LIMITS.time));
        let limits = Limits { time, ..LIMITS };
        let output = self.run(arguments, input, limits, Some(remote))?;
        match output.status.success() {
            true => Ok(output),
            false => {
                let reason = shortened(&String::from_utf8_lossy(&output.stderr));
                Err(GitError::Fetch { url: remote.url.to_owned(), reason })
            }
        }
    }

    /// Runs git in the quarantine. It dies with this process, and what it has started ends then:
    /// its pipes close.
    fn run(&self, arguments: &[&str], input: &[u8], limits: Limits, remote: Option<&Remote<'_>>) -> Result<Output> {
        let host = &self.repository.host;
        let mut command = Command::new("git");
        command.env_clear();
        match remote {
            Some(remote) => {
                let of_git = |name: &OsString| name.as_bytes().starts_with(b"GIT_");
                command.envs(remote.environment.iter().filter(|(name, _)| !of_git(name)).cloned());
                command.env("GIT_ALLOW_PROTOCOL", remote.scheme);
                command.args(["-c", &format!("protocol.{}.allow=always", remote.scheme)]);
            }
            None => {
                command.envs(host.path.iter().map(|path| ("PATH", path))).env("GIT_ALLOW_PROTOCOL", "");
            }
        }
        command
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOC_LIMIT", ALLOC_LIMIT)
            .args(["--no-pager", "-c", "protocol.allow=never", "-c", "core.hooksPath=/dev/null"])
            .args(["-c", "core.alternateRefsCommand=true", "-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .arg("--git-dir")
            .arg(&self.git_dir)
            .args(arguments)
            .current_dir(&self.repository.worktree)
            .stdout(Stdio::piped());
        // Of git's own children, none outlives this by much: what works on a pack of the guest's has
        // as much of the processors as the time limit allows.
        let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let cpu = remote.and_then(|remote| remote.time).map(|time| time.as_secs().max(1).saturating_mul(processors));
        let prepare = move || {
            set_pdeathsig(Signal::SIGKILL)?;
            cpu.map_or(Ok(()), |seconds| setrlimit(Resource::RLIMIT_CPU, seconds, seconds))?;
            Ok(())
        };
        // SAFETY: between fork and exec it makes these two system calls, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        run(&mut command, input, limits).map_err(|reason| self.failed(arguments, reason))
    }

    fn failed(&self, arguments: &[&str], reason: String) -> GitError {
        GitError::Command { arguments: arguments.join(" "), git_dir: self.git_dir.clone(), reason }
    }
}

/// The first lines of what git said, each as long as a message is: git quotes what the VM says.
fn shortened(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(MESSAGE.0);
    lines.map(|line| line.chars().take(MESSAGE.1).collect::<String>() + "\n").collect()
}

/// The file `objects/info/alternates` that names `folders`. A path in quotes is as git's `quote.c`
/// writes it, so that it may begin with `#` or hold a line break.
fn alternates(folders: &[PathBuf]) -> Vec<u8> {
    let mut text = String::new();
    for folder in folders {
        text.push('"');
        for byte in folder.as_os_str().as_bytes() {
            match byte {
                b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
                b' '..=b'~' => text.push(char::from(*byte)),
                _ => write!(text, "\\{byte:03o}").expect("strings take what they are given"),
            }
        }
        text.push_str("\"\n");
    }
    text.into_bytes()
}

/// The commits and tags that are here, as packed refs: git tells the VM of them, which then sends
/// only what is new.
fn host_refs(repository: &Repository) -> Result<Vec<u8>> {
    let store = repository.ref_store()?;
    let mut text = Vec::new();
    let mut add = |id: &[u8], name: &[u8]| text.extend([id, b" refs/host/", name, b"\n"].concat());
    let head = store.head.trim_ascii_end();
    if std::str::from_utf8(head).is_ok_and(is_id) {
        add(head, b"head");
    }
    for (name, id) in &store.refs {
        if std::str::from_utf8(id).is_ok_and(is_id) {
            add(id, name);
        }
    }
    Ok(text)
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_alternates_are_quoted() {
        let folders = ["/a b/objects".into(), "/\"x\\\n\u{e9}".into()];
        assert_eq!(alternates(&folders), b"\"/a b/objects\"\n\"/\\\"x\\\\\\012\\303\\251\"\n");
    }
}
