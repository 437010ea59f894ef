//! Kernels that the user brings, from `banger kernel import` to a VM that boots them.

use std::fs;
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

#[test]
fn imported_kernel_boots_and_is_deletable_when_unused() {
    let home = Home::with_own_kernels();
    let repository = home.repository("r");
    let (bz_image, modules) = (shared_kernel().join("vmlinuz"), modules(&home));
    let release = modules.file_name().unwrap().to_str().unwrap();
    let elf = home.path().join("vmlinux");
    fs::write(&elf, vmlinux(&bz_image)).unwrap();
    let import = |name: &str, kernel: &Path, modules: &Path| {
        let (kernel, modules) = (kernel.to_str().unwrap(), modules.to_str().unwrap());
        json(&repository, &["kernel", "import", "--name", name, "--kernel", kernel, "--modules", modules])
    };
    assert_eq!(import("generic-6.12", &bz_image, &modules)["kind"], "usage");
    let imported = import("mine", &bz_image, &modules);
    assert_eq!(imported["release"], release, "{imported}");
    assert!(imported["boot_modules"].to_string().contains("virtio_net.ko"), "{imported}");
    // The other format, and the folder above.
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
