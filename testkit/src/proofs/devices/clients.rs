use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::proofs::{Ground, Report, Size};
use crate::stack::{Launch, Stack};

/// The MQTT clients that people use, unchanged: QoS 2, retained, wills, kept sessions, over 3.1.1 and 5. Each is a script under
/// testkit/clients/mqtt that ends with `ok N checks`; what they need is fetched from PyPI and npm in fixed versions. The
/// small form runs those of Debian alone.
pub fn clients(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mqtt");
    let stack = Launch::new(&ground.binary, &folder.path().join("data")).start()?;
    let mut programs = vec![(
        "mosquitto_pub and mosquitto_sub",
        PathBuf::from("bash"),
        scripts.join("mosquitto.sh"),
    )];
    if ground.size == Size::Full {
        let python = python(folder.path(), &scripts)?;
        programs.push(("paho-mqtt", python, scripts.join("paho_checks.py")));
        let script = modules(folder.path(), &scripts)?;
        programs.push(("MQTT.js", PathBuf::from("node"), script));
    }
    for (name, program, script) in programs {
        let output = run(&stack, (&program, &script), folder.path())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let said = text(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        let is_well = output.status.success() && last.starts_with("ok ");
        let shown = if is_well { last.to_owned() } else { said.clone() + &text(&output.stderr) };
        report.bound(is_well, format!("{name}: {shown}"));
    }
    Ok(report)
}

fn run(stack: &Stack, (program, script): (&Path, &Path), folder: &Path) -> Result<Output> {
    let (host, port) = stack.mqtt_address().rsplit_once(':').context("an address")?;
    Command::new("timeout")
        .arg("120")
        .args([program, script])
        .env("HOST", host)
        .env("PORT", port)
        .env("MQTT_USER", stack.mqtt_user())
        .env("MQTT_PASSWORD", stack.mqtt_password())
        .env("FOLDER", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .with_context(|| format!("start {}", program.display()))
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

fn python(folder: &Path, scripts: &Path) -> Result<PathBuf> {
    let place = folder.join("python");
    done(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let python = place.join("bin/python");
    let list = scripts.join("requirements.txt");
    done(Command::new(&python).args(["-m", "pip", "install", "-q", "-r"]).arg(list))?;
    Ok(python)
}

/// The script beside the packages that it names.
fn modules(folder: &Path, scripts: &Path) -> Result<PathBuf> {
    let place = folder.join("node");
    std::fs::create_dir_all(&place)?;
    for file in ["package.json", "mqttjs.mjs"] {
        std::fs::copy(scripts.join(file), place.join(file))?;
    }
    let options = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
    done(Command::new("npm").args(options).arg(&place))?;
    Ok(place.join("mqttjs.mjs"))
}
