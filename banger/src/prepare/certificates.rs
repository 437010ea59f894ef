//! Certificate authorities of the user's own, such as a company's, in the guest's trust store.
//!
//! Debian's way, which others share: a file each in `/usr/local/share/ca-certificates`, and what
//! `update-ca-certificates`(8) makes of it. Programs that bring their own store are told of ours by
//! [`VARIABLES`].

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use banger_agent::protocol::exec::{Exec, Exit};
use banger_vmm::Vm;

use crate::error::{CommandError, ErrorKind};
use crate::output::report::{RunPhase, RunReport};
use crate::output::ui::Ui;
use crate::prepare::Stamp;
use crate::vm::guest_command;
use crate::vm::post_mortem;

/// No file of certificates is longer, in bytes,
const MAX_LENGTH: u64 = 1 << 20;
/// and there are no more certificates.
const MAX_COUNT: usize = 1000;

/// OpenSSL and what is like it, Python's requests, and Node.
pub const VARIABLES: [(&str, &str); 3] = [
    ("SSL_CERT_FILE", "/etc/banger/ca-bundle.pem"),
    ("REQUESTS_CA_BUNDLE", "/etc/banger/ca-bundle.pem"),
    ("NODE_EXTRA_CA_CERTS", "/etc/banger/ca-certificates.pem"),
];

/// The first part of the script: takes away what was put there before.
///
/// `update-ca-certificates` starts a thousand processes, which takes a translated guest a minute.
/// So its work is done here for our certificates alone, and undone, wherever the result is the
/// same: nothing of its own hangs on it (`update.d`), and the bundle is as we left it. Whenever it
/// is run in the guest later, it finds ours in their place. No process is started for each
/// certificate: a bundle of the host has more than a hundred. printf(1) is built into every shell
/// in use, and `openssl rehash` goes through the whole folder.
const BEGIN: &str = "set -eu
umask 022
store=/usr/local/share/ca-certificates
certs=/etc/ssl/certs
ours=/etc/banger
mkdir -p $store $ours
whole=
openssl rehash -help >/dev/null 2>&1 && [ -s $certs/ca-certificates.crt ] || whole=yes
[ -z \"$(ls -A /etc/ca-certificates/update.d 2>/dev/null)\" ] || whole=yes
rm -f $store/banger-*.crt
if [ -e $ours/ca-certificates.pem ]; then
    if cat $ours/ca-before.pem $ours/ca-certificates.pem | cmp -s - $certs/ca-certificates.crt; then
        cat $ours/ca-before.pem >$certs/ca-certificates.crt
    else
        whole=yes
    fi
fi
if [ -d $certs ]; then
    find $certs -lname 'banger-*.pem' -delete
    rm -f $certs/banger-*.pem
fi
rm -f $ours/ca-*.pem
put() {
    printf %s \"$2\" >$store/banger-$1.crt
    [ $whole ] || printf %s \"$2\" >$certs/banger-$1.pem
}
";

/// The last part, after the certificates were written into the store. Where there is no
/// `update-ca-certificates`, [`VARIABLES`] lead to a bundle of the guest's own and ours.
const END: &str = "bundle=
for file in $certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s $file ]; then bundle=$file; break; fi
done
set -- $store/banger-*.crt
if [ -e $1 ]; then cat \"$@\" >$ours/ca-certificates.pem; fi
if ! command -v update-ca-certificates >/dev/null; then
    if [ -e $1 ]; then cat $bundle $ours/ca-certificates.pem >$ours/ca-bundle.pem; fi
    exit
fi
if [ $whole ]; then
    update-ca-certificates
else
    # One that is there twice has one link, which may have been to ours. It fails for files that hold more than one.
    openssl rehash $certs >/dev/null 2>&1 || :
    if [ -e $1 ]; then
        cat $certs/ca-certificates.crt >$ours/ca-before.pem
        cat $ours/ca-certificates.pem >>$certs/ca-certificates.crt
    fi
fi
if [ -e $1 ]; then ln -s $certs/ca-certificates.crt $ours/ca-bundle.pem; fi
";

/// Certificates in PEM, RFC 7468, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(Vec<String>);

impl Certificates {
    /// Reads the certificates in `files`, and nothing else that may be there: a private key stays
    /// here.
    ///
    /// # Errors
    /// If a file cannot be read, or holds no certificate.
    pub fn read(files: &[PathBuf]) -> Result<Certificates, CommandError> {
        let mut all = Vec::new();
        for path in files {
            let mut text = Vec::new();
            let read = File::open(path).and_then(|file| file.take(MAX_LENGTH + 1).read_to_end(&mut text));
            read.map_err(|error| CommandError::io("read the certificates in", path, &error).kind(ErrorKind::Config))?;
            let wrong = |what: &str| {
                let error = CommandError::new(format!("`{}` {what}", path.display())).kind(ErrorKind::Config);
                error.hint("`ca_certificates` names PEM files, with `-----BEGIN CERTIFICATE-----`")
            };
            if text.len() as u64 > MAX_LENGTH {
                return Err(wrong("is too long for a file of certificates"));
            }
            let found = blocks(&String::from_utf8_lossy(&text));
            if found.is_empty() {
                return Err(wrong("holds no certificate"));
            }
            all.extend(found);
            if all.len() > MAX_COUNT {
                return Err(wrong(&format!("is one too many: no more than {MAX_COUNT} certificates are taken")));
            }
        }
        all.sort_unstable();
        all.dedup();
        Ok(Certificates(all))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn digest(&self) -> String {
        blake3::hash(self.script().as_bytes()).to_hex().to_string()
    }

    /// For sh(1) in the guest.
    fn script(&self) -> String {
        let mut script = BEGIN.to_owned();
        for certificate in &self.0 {
            let name = &blake3::hash(certificate.as_bytes()).to_hex()[..16];
            // Base64 and the two marker lines have no quotation mark.
            script.push_str(&format!("put {name} '{certificate}'\n"));
        }
        script.push_str(END);
        script
    }

    /// Makes the guest trust these, and none that banger had it trust before. It costs nothing if
    /// that is so already.
    ///
    /// # Errors
    /// If the guest cannot be brought to it.
    pub fn install(&self, vm: &Vm, account: &RunReport, ui: &Ui) -> Result<(), CommandError> {
        let mark = vm.folder().join("certificates");
        let stamp = if self.is_empty() { Stamp::find(&mark, ui)? } else { Some(Stamp::open(&mark, ui)?) };
        let Some(mut stamp) = stamp else { return Ok(()) };
        let digest = self.digest();
        if stamp.is(&digest) {
            return Ok(());
        }
        stamp.begin()?;
        ui.status("the VM is brought to trust what `ca_certificates` says");
        let exec = Exec { argv: vec!["sh".into(), "-s".into()], cwd: "/".into(), ..Exec::default() };
        let run = || guest_command::run(vm, exec, self.script().as_bytes(), |_| {});
        let finished = account.time(RunPhase::Certificates, run)?;
        if finished.exit != Exit::Code(0) {
            let error =
                CommandError::new("the VM cannot be made to trust the `ca_certificates`").kind(ErrorKind::Guest);
            let error = post_mortem::of_memory(error, vm, finished.out_of_memory);
            return Err(error.details(finished.last_lines()));
        }
        stamp.note(&digest)
    }
}

/// The certificates in `text`, written anew: what is not base64 there is no part of one.
fn blocks(text: &str) -> Vec<String> {
    const FIRST: &str = "-----BEGIN CERTIFICATE-----";
    const LAST: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    for part in text.split(FIRST).skip(1) {
        let Some((body, _)) = part.split_once(LAST) else { continue };
        let body: String = body.split_ascii_whitespace().collect();
        let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        if !body.is_empty() && body.bytes().all(is_base64) {
            let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
            found.push(format!("{FIRST}\n{}\n{LAST}\n", lines.join("\n")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_install_process_count_is_constant() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        let (bin, log) = (format!("{root}/bin"), format!("{root}/log"));
        for folder in [&bin, &format!("{root}/etc/ssl/certs")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for name in ["mkdir", "ls", "rm", "cmp", "find", "cat", "ln", "openssl", "update-ca-certificates"] {
            let real = if name.len() > 5 {
                ":".to_owned()
            } else {
                format!("exec /usr/bin/env PATH=/usr/bin:/bin {name} \"$@\"")
            };
            std::fs::write(format!("{bin}/{name}"), format!("#!/bin/sh\necho {name} >>{log}\n{real}\n")).unwrap();
            std::fs::set_permissions(format!("{bin}/{name}"), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let bundle = format!("{root}/etc/ssl/certs/ca-certificates.crt");
        std::fs::write(&bundle, "former\n").unwrap();
        let processes = |count: usize| {
            let of = |number| format!("-----BEGIN CERTIFICATE-----\n{number:04}\n-----END CERTIFICATE-----\n");
            let script = Certificates((0..count).map(of).collect()).script();
            let script = script.replace("/usr/local/share", &format!("{root}/share"));
            let script = script.replace("/etc/", &format!("{root}/etc/"));
            let _ = std::fs::remove_file(&log);
            let path = format!("{root}/script");
            std::fs::write(&path, script).unwrap();
            let status = std::process::Command::new("/bin/sh").arg(&path).env("PATH", &bin).status().unwrap();
            assert!(status.success());
            assert_eq!(std::fs::read_to_string(&bundle).unwrap().matches("BEGIN").count(), count);
            std::fs::read_to_string(&log).unwrap().lines().count()
        };
        // The second also takes away what the first has put there.
        let one = processes(1);
        let hundred = processes(100);
        assert!(hundred <= one + 5, "{one} and {hundred}");
        assert_eq!(std::fs::read_dir(format!("{root}/etc/ssl/certs")).unwrap().count(), 101);
        processes(0);
        assert_eq!(std::fs::read_to_string(&bundle).unwrap(), "former\n");
        assert_eq!(std::fs::read_dir(format!("{root}/etc/ssl/certs")).unwrap().count(), 1);
    }

    #[test]
    fn certificates_are_extracted_and_keys_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let one = "-----BEGIN CERTIFICATE-----\r\nTUlJ\r\nQQ==\r\n-----END CERTIFICATE-----\r\n";
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let evil = "-----BEGIN CERTIFICATE-----\nEND\n$(reboot)\n-----END CERTIFICATE-----\n";
        let both = file("both.pem", &format!("subject=x\n{key}{one}{evil}{one}"));
        let certificates = Certificates::read(&[both.clone(), both]).unwrap();
        assert_eq!(certificates.0, ["-----BEGIN CERTIFICATE-----\nTUlJQQ==\n-----END CERTIFICATE-----\n"]);
        let script = certificates.script();
        assert!(!script.contains("c2VjcmV0") && !script.contains("reboot") && script.contains("TUlJQQ=="), "{script}");
        for path in [file("key.pem", key), folder.path().join("missing"), folder.path().to_owned()] {
            assert_eq!(Certificates::read(&[path]).unwrap_err().kind, ErrorKind::Config);
        }
        let long = file("long.pem", &" ".repeat(MAX_LENGTH as usize + 1));
        assert!(Certificates::read(&[long]).unwrap_err().message.contains("too long"));
    }
}
