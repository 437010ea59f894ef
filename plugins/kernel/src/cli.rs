//! The command line, as clap sees it: types only.

use std::path::PathBuf;

use banger::cli::Global;
use clap::{Parser, Subcommand, ValueHint};

/// Pull, import, list, show and delete kernels
#[derive(Debug, Parser)]
#[command(name = "banger kernel", bin_name = "banger kernel", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get a kernel of the catalog, or refresh one of an earlier version
    Pull {
        /// Its name
        #[arg(value_name = "CATALOG-NAME")]
        kernel: String,
    },
    /// Take over a kernel that was built here, or elsewhere
    #[command(after_help = "Examples:
  banger kernel import --name mine --kernel arch/x86/boot/bzImage --modules out/lib/modules/6.12.1
  banger kernel import --name mine --kernel vmlinux        an uncompressed one, without modules
  banger image pull debian:12 --name custom --kernel-ref mine

The modules must be the kernel's own, as `make modules_install` and depmod leave them. What a VM needs to boot is looked for in them: virtio_mmio,
virtio_console, virtio_blk, virtio_net, overlay and ext4, as modules or built in. Of a kernel without modules that is not known before it boots.
Firecracker needs vmw_vsock_virtio_transport too. QEMU boots an ELF only if it has an entry for PVH (CONFIG_PVH).")]
    Import {
        /// What to call it
        #[arg(long, value_name = "NAME")]
        name: String,
        /// A bzImage or an uncompressed ELF (vmlinux) for x86-64
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        kernel: PathBuf,
        /// The folder of its release's modules, or the one that this is in
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        modules: Option<PathBuf>,
    },
    /// List the kernels that are here; with `--quiet` names only
    #[command(visible_alias = "ls")]
    List,
    /// Show what is known of a kernel
    #[command(visible_alias = "inspect")]
    Show {
        /// Its name
        #[arg(value_name = "KERNEL")]
        kernel: String,
    },
    /// Delete a kernel that no image and no VM needs
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        #[arg(value_name = "KERNEL")]
        kernel: String,
    },
}
