//! Kernels that the user brings, from `banger kernel import` to a VM that boots them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::registry::{Layout, run};
use banger_tests::web::WebServer;
use banger_tests::{Home, Output, Repository, shared_kernel};
use serde_json::Value;

fn json(repository: &Repository<'_>, arguments: &[&str]) -> Value {
    let output = repository.banger().args(arguments).arg("--json").output().unwrap();
    Output::from(output).document()
}

/// The modules of the shared kernel as files of this machine: a folder named after its release.
fn modules(home: &Home) -> PathBuf {
    let all = home.path().join("modules");
    fs::create_dir(&all).unwrap();
    let dump = format!("rdump / {}", all.display());
    run(Command::new("/usr/sbin/debugfs").args(["-R", &dump]).arg(shared_kernel().join("modules.ext4")));
    let is_release = |path: &PathBuf| path.join("modules.dep").is_file();
    fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).find(is_release).expect("modules")
}

/// The ELF that is compressed in a bzImage (Documentation/arch/x86/boot.rst, `payload_offset`).
fn vmlinux(bz_image: &Path) -> Vec<u8> {
    let bytes = fs::read(bz_image).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let start = (usize::from(bytes[0x1f1]) + 1) * 512 + number(0x248);
    // Behind the payload is its length without the compression.
    zstd::decode_all(&bytes[start..start + number(0x24c) - 4]).unwrap()
}

/// Checks that an ELF has an entry and segments as Linux has them (arch/x86/kernel/vmlinux.lds.S):
/// loaded from 16 MiB on, each behind the other.
fn check_linux(elf: &[u8]) {
    let number = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let (entry, table, count) = (number(24), number(32) as usize, usize::from(elf[56]));
    let headers = (0..count).map(|index| table + 56 * index).filter(|header| elf[*header..][..4] == [1, 0, 0, 0]);
    let segments: Vec<_> = headers.map(|header| (number(header + 24), number(header + 40))).collect();
    assert!(segments.len() >= 3, "{segments:x?}");
    assert_eq!(segments[0].0, 16 << 20);
    assert!(segments[0].0 <= entry && entry < segments[0].0 + segments[0].1, "{entry:x} {segments:x?}");
    assert!(segments.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{segments:x?}");
}

#[test]
fn kernel_of_an_earlier_version_boots_and_is_refreshed_by_a_pull() {
    let home = Home::with_own_kernels_only();
    let repository = home.repository("r");
    let kernel = home.data().join("kernels/generic-6.12");
    run(Command::new("cp").arg("-a").arg(shared_kernel()).arg(&kernel));
    // As earlier versions made it.
    let _ = fs::remove_file(kernel.join("vmlinux"));
    let mut manifest: Value = serde_json::from_slice(&fs::read(kernel.join("manifest.json")).unwrap()).unwrap();
    let manifest = manifest.as_object_mut().unwrap();
    manifest.remove("vmlinux_bytes");
    manifest.remove("missing_modules");
    let modules = manifest["boot_modules"].as_array_mut().unwrap();
    let overlay = modules.iter().position(|module| module.as_str().unwrap().ends_with("-overlay.ko")).unwrap();
    for module in modules.drain(overlay + 1..) {
        fs::remove_file(kernel.join("boot").join(module.as_str().unwrap())).unwrap();
    }
    fs::write(kernel.join("manifest.json"), serde_json::to_vec(manifest).unwrap()).unwrap();

    let shown = json(&repository, &["kernel", "show", "generic-6.12"]);
    assert_eq!((&shown["qemu"], &shown["firecracker"]), (&true.into(), &false.into()), "{shown}");
    assert!(shown["firecracker_reason"].as_str().unwrap().contains("earlier version"), "{shown}");
    let text = repository.run(["kernel", "show", "generic-6.12"]).ok().text();
    assert!(text.contains("banger kernel pull generic-6.12"), "{text}");
    assert_eq!(repository.run(["--", "echo", "old"]).ok().text(), "old\n");

    // While the VM runs.
    let pull = || json(&repository, &["kernel", "pull", "generic-6.12"]);
    assert_eq!(pull()["change"], "refreshed");
    assert_eq!(pull()["change"], "unchanged");
    let refreshed = json(&repository, &["kernel", "show", "generic-6.12"]);
    assert_eq!((&refreshed["firecracker"], &refreshed["firecracker_reason"]), (&true.into(), &Value::Null));
    assert!(refreshed["boot_modules"].to_string().contains("-vmw_vsock_virtio_transport.ko"), "{refreshed}");
    assert!(refreshed["disk_bytes"].as_u64() > shown["disk_bytes"].as_u64(), "{refreshed}");
    assert_eq!(refreshed["blake3"], shown["blake3"]);
    check_linux(&fs::read(kernel.join("vmlinux")).unwrap());
    repository.run(["restart"]).ok();
    assert_eq!(repository.run(["--", "echo", "new"]).ok().text(), "new\n");
    repository.run(["delete", "--force"]).ok();
}

#[test]
fn imported_kernel_boots_and_is_deletable_when_unused() {
    let home = Home::with_own_kernels();
    let repository = home.repository("r");
    let (bz_image, modules) = (shared_kernel().join("vmlinuz"), modules(&home));
    let release = modules.file_name().unwrap().to_str().unwrap();
    let import = |name: &str, kernel: &Path, modules: &Path| {
        let (kernel, modules) = (kernel.to_str().unwrap(), modules.to_str().unwrap());
        json(&repository, &["kernel", "import", "--name", name, "--kernel", kernel, "--modules", modules])
    };
    assert_eq!(import("generic-6.12", &bz_image, &modules)["kind"], "usage");
    let imported = import("mine", &bz_image, &modules);
    assert_eq!(imported["release"], release, "{imported}");
    assert!(imported["boot_modules"].to_string().contains("virtio_net.ko"), "{imported}");
    // The other format, which is beside it, and the folder above.
    let elf = home.data().join("kernels/mine/vmlinux");
    let content = fs::read(&elf).unwrap();
    assert!(content == vmlinux(&bz_image));
    check_linux(&content);
    let (length, taken) = (content.len() as u64, fs::metadata(&elf).unwrap().blocks() * 512);
    assert!(taken < length / 4 * 3, "{taken} bytes of {length} are on the disk");
    assert_eq!(import("elf", &elf, modules.parent().unwrap())["release"], release);

    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("box", home.path());
    // Modules are shown to an image that could have `modprobe`.
    layout.insert("box", &repository.root.join("README"), "/lib/README");
    for kernel in ["mine", "elf"] {
        let image = format!("for-{kernel}");
        let pulled =
            json(&repository, &["image", "pull", &layout.source("box"), "--name", &image, "--kernel-ref", kernel]);
        assert_eq!(pulled["change"], "new", "{pulled}");
    }
    let unknown = json(&repository, &["image", "pull", &layout.source("box"), "--name", "x", "--kernel-ref", "minee"]);
    assert_eq!(unknown["kind"], "unknown_image", "{unknown}");
    assert!(unknown["hints"].to_string().contains("`mine`"), "{unknown}");
    let script = "uname -r; ls /lib/modules; cat README";
    let expected = format!("{release}\n{release}\na repository\n");
    assert_eq!(repository.run(["--rm", "--image", "for-elf", "--", "sh", "-c", script]).ok().text(), expected);
    assert_eq!(repository.run(["--image", "for-mine", "--", "sh", "-c", script]).ok().text(), expected);

    let list = json(&repository, &["kernel", "list"]);
    let [elf, mine] = &list["kernels"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&mine["name"], &mine["images"][0]), (&"mine".into(), &"for-mine".into()), "{list}");
    let vm = mine["vms"][0].as_str().expect("the VM is named");
    assert!(elf["vms"].as_array().unwrap().is_empty(), "{list}");
    assert_eq!(json(&repository, &["kernel", "show", "mine"])["has_modules"], true);
    let refused = json(&repository, &["kernel", "delete", "mine"]);
    assert_eq!((&refused["kind"], &refused["exit_code"]), (&"kernel_in_use".into(), &125.into()), "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("image `for-mine`") && message.contains(&format!("VM `{vm}`")), "{message}");

    // What a kernel without its modules has built in shows when it boots, and at once.
    json(&repository, &["kernel", "import", "--name", "lone", "--kernel", bz_image.to_str().unwrap()]);
    json(&repository, &["image", "pull", &layout.source("box"), "--name", "for-lone", "--kernel-ref", "lone"]);
    let lone = repository.run(["--rm", "--image", "for-lone", "--", "true"]);
    assert_eq!(lone.status, 125, "{}", lone.stderr);
    assert!(lone.stderr.contains("the kernel has no virtio_mmio"), "{}", lone.stderr);
    assert!(lone.stderr.contains("--modules"), "{}", lone.stderr);

    repository.run(["delete", "--force"]).ok();
    for name in ["for-mine", "for-elf", "for-lone"] {
        repository.run(["image", "delete", name]).ok();
    }
    assert_eq!(json(&repository, &["kernel", "delete", "mine"])["deleted"], true);
    assert!(!home.data().join("kernels/mine").exists());
    repository.run(["kernel", "rm", "elf"]).ok();
    assert_eq!(json(&repository, &["kernel", "show", "elf"])["kind"], "unknown_image");
}

#[test]
fn catalog_kernel_is_pulled_with_its_image() {
    let home = Home::with_own_kernels();
    let repository = home.repository("r");
    let (public, modules) = (home.path().join("public"), modules(&home));
    let release = modules.file_name().unwrap().to_str().unwrap();
    // As a distribution's package has it.
    let tree = home.path().join("tree");
    for folder in [&public, &tree.join("boot"), &tree.join("lib/modules")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::copy(shared_kernel().join("vmlinuz"), tree.join(format!("boot/vmlinuz-{release}"))).unwrap();
    fs::rename(&modules, tree.join("lib/modules").join(release)).unwrap();
    let archive = public.join("kernel.tar.zst");
    run(Command::new("tar").arg("--zstd").arg("-cf").arg(&archive).arg("-C").arg(&tree).args(["boot", "lib"]));
    let digest = home.command("sha256sum").arg(&archive).output().unwrap();
    let digest = String::from_utf8(digest.stdout[..64].to_vec()).unwrap();

    let layout = Layout::new(home.path().join("layout"));
    layout.busybox("box", home.path());
    layout.insert("box", &repository.root.join("README"), "/lib/README");
    fs::write(
        public.join("catalog.toml"),
        format!(
            "[kernels.ours]\ndescription = 'of the team'\nsources = [{{ url = 'kernel.tar.zst', sha256 = '{digest}', size = {} }}]\n",
            fs::metadata(&archive).unwrap().len()
        ),
    )
    .unwrap();
    let web = WebServer::new(public);
    let url = format!("http://{}/catalog.toml", web.address);

    // Nobody knows it before the catalog is named.
    let pull = ["image", "pull", &layout.source("box"), "--name", "base", "--kernel-ref", "ours"];
    let unknown = json(&repository, &pull);
    assert_eq!(unknown["kind"], "unknown_image", "{unknown}");
    repository.run(["config", "set", "catalog_url", &url]).ok();
    assert_eq!(json(&repository, &pull)["change"], "new");
    let kernels = json(&repository, &["kernel", "list"]);
    let source = format!("bundle http://{}/kernel.tar.zst", web.address);
    assert_eq!(
        (&kernels["kernels"][0]["name"], &kernels["kernels"][0]["source"]),
        (&"ours".into(), &source.into()),
        "{kernels}"
    );
    let output = repository.run(["--rm", "--image", "base", "--", "sh", "-c", "uname -r; ls /lib/modules"]).ok();
    assert_eq!(output.text(), format!("{release}\n{release}\n"));
}

#[test]
fn import_refuses_non_kernels_and_missing_modules() {
    let home = Home::with_own_kernels();
    let repository = home.repository("r");
    let (bz_image, modules) = (shared_kernel().join("vmlinuz"), modules(&home));
    let import = |kernel: &Path, more: &[&Path]| {
        let mut command = repository.banger();
        command.args(["kernel", "import", "--json", "--name", "mine", "--kernel"]).arg(kernel);
        for modules in more {
            command.arg("--modules").arg(modules);
        }
        Output::from(command.output().unwrap()).document()
    };
    let no_kernel = import(&repository.root.join("README"), &[]);
    assert_eq!((&no_kernel["kind"], &no_kernel["exit_code"]), (&"image".into(), &125.into()), "{no_kernel}");
    // A header that is right, and a payload that is not.
    let mut damaged = fs::read(&bz_image).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0);
    let path = home.path().join("damaged");
    fs::write(&path, damaged).unwrap();
    let refused = import(&path, &[]);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains(path.to_str().unwrap()) && message.contains("payload"), "{message}");

    let dep = modules.join("modules.dep");
    let without: String = fs::read_to_string(&dep)
        .unwrap()
        .lines()
        .filter(|line| !line.contains("/virtio_net.ko"))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(&dep, without).unwrap();
    let lacking = import(&bz_image, &[&modules]);
    assert!(lacking["message"].as_str().unwrap().contains("has no `virtio_net`"), "{lacking}");
    let other = modules.with_file_name("6.1.0");
    fs::rename(&modules, &other).unwrap();
    let foreign = import(&bz_image, &[&other]);
    assert!(foreign["message"].as_str().unwrap().contains("of another one"), "{foreign}");

    let list = repository.run(["kernel", "list"]).ok();
    assert!(list.text().is_empty() && list.stderr.contains("no kernel yet"), "{list:?}");
    let unknown = json(&repository, &["kernel", "pull", "generic-6.13"]);
    assert_eq!(unknown["hints"][0], "did you mean `generic-6.12`?", "{unknown}");
    assert_eq!(json(&repository, &["kernel", "import"])["kind"], "usage");
    assert!(repository.run(["--list"]).ok().text().contains("Pull, import, list, show and delete kernels"));
}
