//! `honed policies export`.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use policy::{
    PolicyVersion,
    checkpoint::{self, Checkpoint, copy_durably},
    transformer::{is_adapter, merged},
};
use ppo::{registry::versions_folder, rollout_log::VersionRow};

use crate::cli::{ConfigArgs, Outcome, rollouts, say};

/// What to export.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Number of the version.
    version: u64,
    /// The file to write; one that is there is not touched.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Of an adapter, the adapter itself, as llama.cpp loads it beside version 0.
    #[arg(long)]
    adapter: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let data_dir = args.config.load()?.daemon.data_dir;
    let rows = rollouts::open(&args.config)?.versions()?;
    let file = |version: u64| good_file(&rows, PolicyVersion(version), Path::new(&data_dir));
    let source = file(args.version)?;
    if args.out.exists() {
        return Err(format!("{} exists already", args.out.display()).into());
    }
    let checkpoint = Checkpoint::read(&source)?;
    let digest = match is_adapter(&checkpoint.metadata) && !args.adapter {
        true => merged(&Checkpoint::read(&file(0)?)?, &checkpoint)?.write(&args.out)?,
        // Byte for byte what serves, so that its digest is the version's.
        false => {
            let mut file = File::open(&source)?;
            let len = file.metadata()?.len();
            copy_durably(&mut file, len, &args.out)?;
            checkpoint::digest(&args.out)?
        }
    };
    Ok(say::answer(format_args!("{}  {digest}", args.out.display()))?)
}

/// The file of a version, which holds what was written.
fn good_file(rows: &[VersionRow], version: PolicyVersion, data_dir: &Path) -> Result<PathBuf, String> {
    let (expected, file) = file_of(rows, version, data_dir)?;
    let found = checkpoint::digest(&file).map_err(|error| error.to_string())?.to_string();
    match found == expected {
        true => Ok(file),
        false => Err(format!("the file of {version} is damaged: expected digest {expected}, found {found}")),
    }
}

/// The digest of a version and its file.
fn file_of(rows: &[VersionRow], version: PolicyVersion, data_dir: &Path) -> Result<(String, PathBuf), String> {
    let row = rows.iter().find(|row| row.version == version);
    let row = row.ok_or_else(|| format!("there is no {version}; `honed policies list` shows what there is"))?;
    let file = versions_folder(data_dir).join(&row.path);
    match file.is_file() {
        true => Ok((row.digest.clone(), file)),
        false => Err(format!("the file of {version} is gone: it is {}", row.state.as_str())),
    }
}
