//! `first/newcomer` and `first/newcomer-test`: the commands of the README, each on a machine of its own that has rustup,
//! git, gcc and make only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::proofs::Report;
use testkit::within_every;

use crate::shell;

const BUILD_MAX: Duration = Duration::from_mins(25);
const REBUILD_MAX: Duration = Duration::from_mins(1);

/// `cargo run --release -- serve --sample` until the console answers, and a rebuild after a change of one line.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
pub(crate) fn newcomer() -> Result<Report> {
    let mut report = Report::default();
    let clean = CleanRoot::make()?;
    let started = Instant::now();
    let mut served = clean.start("cd /home/newcomer/madang && exec cargo run --release -- serve --sample > /tmp/serve.log 2>&1")?;
    within_every(
        Duration::from_secs(1),
        BUILD_MAX + Duration::from_mins(5),
        "the console",
        || {
            ensure!(served.try_wait()?.is_none(), "serve ended: {}", clean.read("/tmp/serve.log"));
            let page = testkit::Http::new("127.0.0.1:8080").get("/");
            Ok(page.is_ok_and(|page| page.status == 200).then_some(()))
        },
    )?;
    let cold = started.elapsed();
    report.bound(cold < BUILD_MAX, format!("clone to console, cold release build: {cold:.0?}"));
    CleanRoot::stop(&mut served)?;

    let size = fs::metadata(clean.path("/home/newcomer/madang/target/release/madang"))?.len();
    report.figure(format!("binary: {size} bytes"));

    // A statement, not a comment, in the room that names all others and is rebuilt by every change.
    let wiring = clean.path("/home/newcomer/madang/server/src/wiring.rs");
    let text = fs::read_to_string(&wiring)?;
    let place = "    let base = &bases.io;\n";
    ensure!(text.contains(place), "the place for one line more is gone from wiring.rs");
    let more = format!("{place}    tracing::info!(folder = ?config.data_dir, \"opening\");\n");
    fs::write(&wiring, text.replacen(place, &more, 1))?;
    let started = Instant::now();
    clean.run("cd /home/newcomer/madang && cargo build --release -q --bin madang")?;
    let warm = started.elapsed();
    report.bound(warm < REBUILD_MAX, format!("rebuild after one line in wiring.rs: {warm:.1?}"));
    clean.run("cd /home/newcomer/madang && git checkout -q server/src/wiring.rs")?;
    Ok(report)
}

/// `cargo xtask test`.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
pub(crate) fn newcomer_test() -> Result<Report> {
    let mut report = Report::default();
    let clean = CleanRoot::make()?;
    let started = Instant::now();
    let tested = clean.run("cd /home/newcomer/madang && cargo xtask test > /tmp/test.log 2>&1");
    let log = clean.read("/tmp/test.log");
    let passed = log.lines().filter(|line| line.contains("... ok")).count();
    report.bound(
        tested.is_ok() && passed > 0,
        format!("cargo xtask test: {passed} tests passed, {:.0?}", started.elapsed()),
    );
    if let Err(error) = tested {
        // The figures of the builds stand whatever the tests say; why they failed is read here.
        eprintln!("{error:#}\n{log}");
    }
    Ok(report)
}

/// A Debian of its own by debootstrap in a folder, the toolchain copied in, the committed tree cloned; removed when dropped.
struct CleanRoot {
    root: PathBuf,
}

/// Changes into the root `$0` with this machine's kernel file systems in it. They are mounted in a namespace of the
/// command's own, so that nobody outside can ever delete through them, not even after a kill.
const ENTER: &str = r#"for each in proc sys dev; do mount --rbind "/$each" "$0/$each" || exit; done; exec chroot "$0" "$@""#;

impl CleanRoot {
    fn make() -> Result<Self> {
        shell::install(&[("debootstrap", "/usr/sbin/debootstrap")])?;
        let root = std::env::temp_dir().join(format!("madang-newcomer-{}", std::process::id()));
        fs::create_dir_all(&root)?;
        let text = root.display().to_string();
        // git, gcc and make as the README asks; the certificates are what rustup's own installer needs.
        shell::run(
            "debootstrap",
            &[
                "--variant=minbase",
                "--include=git,gcc,libc6-dev,make,ca-certificates",
                "bookworm",
                &text,
            ],
        )?;
        let clean = Self { root };
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            fs::copy(file, clean.path(file)).ok();
        }
        for folder in ["/etc/apt", "/etc/ssl/certs", "/usr/local/share/ca-certificates"] {
            if Path::new(folder).exists() {
                fs::create_dir_all(clean.path(folder))?;
                shell::run("cp", &["-aT", folder, &clean.path(folder).display().to_string()])?;
            }
        }
        clean.copy_toolchain()?;
        let home = clean.path("/home/newcomer");
        fs::create_dir_all(&home)?;
        let here = std::env::current_dir()?.display().to_string();
        shell::run("git", &["clone", "-q", &here, &home.join("madang").display().to_string()])?;
        Ok(clean)
    }

    /// The toolchain and cargo's settings, without any crate: everything is fetched and built anew.
    fn copy_toolchain(&self) -> Result<()> {
        let sysroot = shell::output("rustc", &["--print", "sysroot"])?;
        let target = self.path("/opt/rust");
        fs::create_dir_all(&target)?;
        shell::run("cp", &["-aTL", sysroot.trim(), &target.display().to_string()])?;
        let cargo_home = self.path("/home/newcomer/.cargo");
        fs::create_dir_all(&cargo_home)?;
        for name in ["config.toml", "config"] {
            if let Some(home) = std::env::home_dir() {
                fs::copy(home.join(".cargo").join(name), cargo_home.join(name)).ok();
            }
        }
        Ok(())
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", ENTER]);
        command.arg(&self.root).args(["/usr/bin/env", "-i"]);
        command.args([
            "HOME=/home/newcomer",
            "PATH=/opt/rust/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        ]);
        for name in [
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "CARGO_HTTP_CAINFO",
            "SSL_CERT_FILE",
        ] {
            #[allow(
                clippy::disallowed_methods,
                reason = "the way out of this machine is the machine's"
            )]
            if let Ok(value) = std::env::var(name) {
                command.arg(format!("{name}={value}"));
            }
        }
        command.args(["/bin/bash", "-c", script]).stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> Result<()> {
        let status = self.command(script).status()?;
        ensure!(status.success(), "`{script}` ended with {status} in the clean root");
        Ok(())
    }

    fn start(&self, script: &str) -> Result<Child> {
        Ok(self.command(script).spawn()?)
    }

    /// Ends what was started by SIGTERM; `exec` made it the same process, cargo passes the signal's group on.
    fn stop(child: &mut Child) -> Result<()> {
        let children = shell::output("pgrep", &["-P", &child.id().to_string()]).unwrap_or_default();
        for pid in children.split_whitespace().chain([child.id().to_string().as_str()]) {
            shell::run("kill", &["-TERM", pid]).ok();
        }
        let ended = within_every(
            Duration::from_millis(100),
            Duration::from_secs(20),
            "the end of serve",
            || Ok(child.try_wait()?.map(drop)),
        );
        child.kill().ok();
        child.wait()?;
        ended
    }
}

impl Drop for CleanRoot {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}
