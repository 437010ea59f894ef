//! QEMU's command line: qemu(1).

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use banger_agent::boot_config::{AgentDevice, DiskNaming, DiskRole};
use banger_agent::net::NetMode;

use crate::backend::VmDefinition;
use crate::kvm::Accelerator;
use crate::record::RateLimits;

/// What the guest's kernel is told in any case.
const KERNEL_PARAMETERS: &str = "console=ttyS0 reboot=t panic=-1 quiet";
/// The name of the virtio-serial port that is the agent's.
pub(super) const AGENT_PORT: &str = "banger.0";
/// The most that QEMU takes as a limit: `THROTTLE_VALUE_MAX` of its include/qemu/throttle.h.
const MAX_LIMIT: u64 = 1_000_000_000_000_000;

/// The guest's kernel command line, but for what depends on the accelerator.
pub(super) fn kernel_parameters(vm: &VmDefinition) -> String {
    let agent = AgentDevice::VirtioSerial(AGENT_PORT.to_owned());
    format!("{KERNEL_PARAMETERS} {}", vm.boot_config(agent, DiskNaming::Serial))
}

/// Sockets that QEMU inherits.
pub(super) struct Descriptors {
    pub(super) agent: RawFd,
    pub(super) console: RawFd,
    pub(super) qmp: RawFd,
}

/// All arguments for `vm`.
///
/// Trap: `-netdev user` lets the guest reach services on the host's loopback, at
/// [`super::USER_NETWORK`]'s `host_alias`. It would over IPv6 as well, which is switched off.
pub(super) fn arguments(
    vm: &VmDefinition,
    accelerator: Accelerator,
    kernel_parameters: &str,
    descriptors: &Descriptors,
) -> Vec<OsString> {
    let record = &vm.record;
    let mut line = Line::default();
    line.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    line.option("-name", &record.name).option("-display", "none");
    // Without ACPI the kernel would have to be told of each device; without PIT and PIC it hangs.
    line.option("-machine", "microvm,acpi=on,rtc=on,dump-guest-core=off").option("-rtc", "base=utc");
    match accelerator {
        Accelerator::Kvm => line.option("-accel", "kvm").option("-cpu", "host"),
        // String instructions of a byte at a time, which real processors have made fast, are slow
        // when translated: without these flags kernel and C library copy by words.
        Accelerator::Tcg => line.option("-accel", "tcg,thread=multi").option("-cpu", "max,-erms,-fsrm"),
    };
    line.option("-smp", record.cpus.to_string()).option("-m", format!("{}M", record.memory_mib));
    line.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");

    line.option("-kernel", &vm.kernel).option("-initrd", &vm.initramfs);
    line.option("-append", kernel_parameters);

    line.chardev("console", descriptors.console).option("-serial", "chardev:console");
    line.chardev("qmp", descriptors.qmp).option("-mon", "chardev=qmp,mode=control");
    line.chardev("agent", descriptors.agent).option("-device", "virtio-serial-device,max_ports=2");
    // Without an id there would be no event when the port opens.
    line.option("-device", format!("virtserialport,id=agent,chardev=agent,name={AGENT_PORT},nr=1"));
    line.option("-object", "rng-random,id=rng,filename=/dev/urandom").option("-device", "virtio-rng-device,rng=rng");

    // What an ephemeral VM writes need not survive anything, so it need not reach the disk in
    // order.
    let flush = if record.ephemeral { "on" } else { "off" };
    let disk = format!("discard=unmap,file.discard=unmap,cache.no-flush={flush},file.cache.no-flush={flush}");
    let throttling = throttling(&record.limits);
    for (role, file) in vm.disks() {
        let (options, throttling) = match role {
            DiskRole::Base | DiskRole::Modules => ("read-only=on", None),
            DiskRole::Disk | DiskRole::Workspace => (&*disk, throttling.as_deref()),
        };
        line.disk(role.name(), options, throttling, file);
    }
    if vm.net.mode == NetMode::User {
        line.option("-netdev", "user,id=net,ipv6=off").option("-device", "virtio-net-device,netdev=net");
    }
    line.0
}

/// The options that limit the VM's own disks together; none: nothing is limited.
fn throttling(limits: &RateLimits) -> Option<String> {
    let limits = [("bps-total", limits.disk_bandwidth), ("iops-total", limits.disk_iops)];
    let options = limits.into_iter().filter(|(_, limit)| *limit > 0);
    let options: Vec<_> = options.map(|(name, limit)| format!("throttling.{name}={}", limit.min(MAX_LIMIT))).collect();
    (!options.is_empty()).then(|| format!("throttling.group=own,{}", options.join(",")))
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.extend([name.into(), value.as_ref().to_owned()]);
        self
    }

    fn chardev(&mut self, id: &str, descriptor: RawFd) -> &mut Self {
        self.option("-chardev", format!("socket,id={id},fd={descriptor}"))
    }

    /// The guest knows the disk by its serial, which is `name`.
    ///
    /// Trap: a disk of `-blockdev` is limited by the filter `throttle`, which counts what the guest
    /// discards as written (QEMU's block/throttle.c): `fstrim` of a large disk would take hours.
    /// `-drive` limits what is read and written.
    fn disk(&mut self, name: &str, options: &str, throttling: Option<&str>, file: &Path) -> &mut Self {
        let (option, id) = match throttling {
            None => ("-blockdev", format!("node-name={name}")),
            Some(throttling) => ("-drive", format!("if=none,id={name},auto-read-only=off,{throttling}")),
        };
        let mut value = format!("driver=raw,{id},{options},file.driver=file,file.filename=").into_bytes();
        for &byte in file.as_os_str().as_bytes() {
            value.push(byte);
            // A comma would end the value; two stand for one.
            if byte == b',' {
                value.push(byte);
            }
        }
        self.option(option, OsString::from_vec(value));
        self.option("-device", format!("virtio-blk-device,drive={name},serial={name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BackendKind, VmRecord};

    fn definition(change: impl FnOnce(&mut VmRecord)) -> VmDefinition {
        let mut record = VmRecord::new("work", "image", "kernel", 0);
        record.machine_id = "0".repeat(32);
        change(&mut record);
        let base = "/images/a,b/rootfs.ext4".into();
        VmDefinition { base, ..VmDefinition::for_test(record, BackendKind::Qemu) }
    }

    fn line(change: impl FnOnce(&mut VmRecord), accelerator: Accelerator) -> String {
        let vm = definition(change);
        let arguments =
            arguments(&vm, accelerator, &kernel_parameters(&vm), &Descriptors { agent: 7, console: 8, qmp: 9 });
        arguments.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn qemu_command_line_reflects_the_record() {
        let plain = line(|_| (), Accelerator::Tcg);
        assert!(plain.contains("-accel tcg,thread=multi -cpu max,-erms,-fsrm -smp 2 -m 2048M"));
        assert!(plain.contains("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"));
        assert!(plain.contains("dump-guest-core=off"));
        assert!(plain.contains("-chardev socket,id=agent,fd=7"));
        assert!(plain.contains("banger.hostname=work") && plain.contains("banger.net=10.0.2.15/24,10.0.2.2,10.0.2.3"));
        assert!(!plain.contains("volatile") && !plain.contains("serial=modules"));

        let ephemeral = line(|record| record.ephemeral = true, Accelerator::Kvm);
        assert!(ephemeral.contains("-cpu host") && ephemeral.contains("banger.volatile"));
        assert!(ephemeral.contains("cache.no-flush=on"));

        let alone = line(|record| record.net = NetMode::None, Accelerator::Tcg);
        assert!(!alone.contains("netdev") && !alone.contains("banger.net"));
    }

    #[test]
    fn commas_in_paths_are_escaped() {
        assert!(line(|_| (), Accelerator::Tcg).contains("filename=/images/a,,b/rootfs.ext4 "));
    }

    #[test]
    fn disks_are_attached_in_the_order_that_the_guest_is_told() {
        let mut vm = definition(|_| ());
        vm.workspace = Some("/w".into());
        vm.modules = Some("/m".into());
        assert!(kernel_parameters(&vm).ends_with(" banger.disks=serial:base,disk,workspace,modules"));
        let descriptors = Descriptors { agent: 7, console: 8, qmp: 9 };
        let arguments = arguments(&vm, Accelerator::Kvm, "", &descriptors);
        let serials = arguments.iter().filter_map(|argument| argument.to_str()?.split(",serial=").nth(1));
        assert_eq!(serials.collect::<Vec<_>>(), ["base", "disk", "workspace", "modules"]);
        for (file, option) in [("/w", "discard=unmap"), ("/m", "read-only=on")] {
            let is_of = |argument: &&OsString| argument.to_string_lossy().ends_with(&format!("filename={file}"));
            assert!(arguments.iter().find(is_of).unwrap().to_string_lossy().contains(option), "{file}");
        }
    }

    #[test]
    fn own_disks_share_the_limits_and_those_of_others_have_none() {
        let of = |limits| {
            let mut vm = definition(|record| record.limits = limits);
            vm.workspace = Some("/w".into());
            let arguments = arguments(&vm, Accelerator::Kvm, "", &Descriptors { agent: 7, console: 8, qmp: 9 });
            arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>()
        };
        let limits = RateLimits { disk_iops: 100, disk_bandwidth: 1 << 20, net_bandwidth: 5 };
        let both = "throttling.group=own,throttling.bps-total=1048576,throttling.iops-total=100,discard=unmap,";
        for (limits, options) in [
            (limits, both),
            (RateLimits { disk_iops: 0, ..limits }, "throttling.group=own,throttling.bps-total=1048576,discard=unmap,"),
            (
                RateLimits { disk_iops: u64::MAX, ..RateLimits::default() },
                "throttling.group=own,throttling.iops-total=1000000000000000,discard=unmap,",
            ),
        ] {
            let line = of(limits);
            let drives: Vec<_> = line.windows(2).filter(|pair| pair[0] == "-drive").map(|pair| &pair[1]).collect();
            for (drive, name) in drives.iter().zip(["disk", "workspace"]) {
                let start = format!("driver=raw,if=none,id={name},auto-read-only=off,{options}");
                assert!(drive.starts_with(&start), "{start}: {drive}");
                assert!(line.contains(&format!("virtio-blk-device,drive={name},serial={name}")), "{line:?}");
            }
            assert_eq!((drives.len(), line.iter().filter(|part| part.contains("throttling")).count()), (2, 2));
        }
        // QEMU's user network has no limits.
        assert_eq!(of(RateLimits { net_bandwidth: 5, ..RateLimits::default() }), of(RateLimits::default()));
    }

    #[test]
    fn agent_port_has_the_name_that_the_guest_is_told() {
        let line = line(|_| (), Accelerator::Kvm);
        assert!(line.contains(",name=banger.0,nr=1 ") && line.contains(" banger.agent=virtio-serial:banger.0 "));
    }

    #[test]
    fn longest_kernel_command_line_fits() {
        let mut longest = definition(|record| {
            record.hostname = "h".repeat(63);
            record.ephemeral = true;
        });
        longest.workspace = Some("/w".into());
        longest.modules = Some("/m".into());
        // x86 has room for 2048 bytes, of which a backend adds some of its own.
        assert!(kernel_parameters(&longest).len() < 512);
    }
}
