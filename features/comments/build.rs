//! Packs what pages of others load, once, when it is compiled: nothing of it is left to do when a server starts.

use std::path::Path;
use std::{env, fs, io};

use zopfli::{Format, Options};

#[path = "widget/pack.rs"]
mod pack;

#[allow(clippy::print_stdout, reason = "this is how Cargo is told")]
fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=widget");
    let into = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("there is no OUT_DIR"))?;
    let read = |name: &str| fs::read_to_string(Path::new("widget").join(name));
    for (name, text) in [
        ("comments.js", pack::pack(&read("comments.js")?)),
        ("sign-in.js", read("sign-in.js")?),
        ("pages.css", read("pages.css")?),
    ] {
        // Slower than others and smaller.
        let mut gzip = Vec::new();
        zopfli::compress(Options::default(), Format::Gzip, text.as_bytes(), &mut gzip)?;
        let into = Path::new(&into).join(name);
        fs::write(into.with_added_extension("gz"), gzip)?;
        fs::write(into, text)?;
    }
    Ok(())
}
