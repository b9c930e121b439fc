//! `herd run` and the subcommands of single stages: which stage reads and writes what.

use crate::cli::RunArgs;
use crate::folder::RunFolder;
use crate::recipe::Recipe;
use crate::stages::{self, Outcome, Stage, duration};
use anyhow::Context as _;
use herd_data::Resources;
use herd_run::{Context, Manifest};
use herd_tokenizer::Tokenizer;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the stages of a recipe in order; with `only`, that stage alone.
pub fn run(args: &RunArgs, only: Option<&str>, ctx: &Context) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.recipe)?;
    let folder = run_folder(args, &recipe);
    anyhow::ensure!(
        !herd_data::storage::is_remote(&folder.root().to_string_lossy()),
        "{}: only `herd data plan`, `next` and `task` write to an object store; give a folder of this machine",
        folder.root().display()
    );
    let mut worked = false;
    // `align` and `eval` stand for all stages whose names begin so.
    let wanted = |stage: &str| only.is_none_or(|name| stage.split('-').next() == Some(name));
    let mut stages = Vec::new();
    // What comes after it does without the crawl, which may lie on another machine.
    if wanted("data") {
        stages.push(data(&recipe, &folder, resources(args))?);
    }
    stages
        .extend(after_data(&recipe, &folder, resources(args)).into_iter().filter(|stage| wanted(stage.name)));
    given_files_exist(&args.recipe, &stages, &folder)?;
    device_exists(&recipe, &stages)?;
    let mut manifest = Manifest::open(folder.root(), &recipe.name)?;
    ctx.progress.line(format!("recipe {} -> {}", args.recipe.display(), folder.root().display()));
    let began = Instant::now();
    for stage in stages {
        worked |= stages::run(stage, &mut manifest, ctx)? == Outcome::Ran;
    }
    if only.is_some() {
        return Ok(());
    }
    if worked || !folder.report().exists() {
        herd_report::write(folder.root(), &folder.report())?;
    }
    print!("{}", herd_report::text_summary(folder.root())?);
    println!("  report:     {}", folder.report().display());
    println!("  talk to it: herd chat {0}   or   herd serve {0}", folder.root().display());
    ctx.progress.line(match worked {
        true => format!("done in {}", duration(began.elapsed().as_secs_f64())),
        false => "nothing to do: every stage was done before".to_string(),
    });
    Ok(())
}

/// Refuses a recipe that names files that are not there, before the first stage to be run and not hours later in the last.
fn given_files_exist(recipe: &Path, stages: &[Stage], folder: &RunFolder) -> anyhow::Result<()> {
    for stage in stages {
        let given = stage.inputs.iter().map(|(_, path)| path).filter(|path| !path.starts_with(folder.root()));
        if let Some(missing) = given.into_iter().find(|path| !path.exists()) {
            let name = missing.display().to_string();
            let text = std::fs::read_to_string(recipe)?;
            let line = text.lines().position(|line| line.contains(&name)).map(|i| format!(":{}", i + 1));
            anyhow::bail!(
                "{}{}: {name} does not exist and stage `{}` needs it; paths are relative to the folder in which the \
                 command is given",
                recipe.display(),
                line.unwrap_or_default(),
                stage.name
            );
        }
    }
    Ok(())
}

/// Looks for the recipe's device before the first stage, not hours later, unless the model is there already.
fn device_exists(recipe: &Recipe, stages: &[Stage]) -> anyhow::Result<()> {
    let done = |stage: &Stage| stage.outputs.iter().all(|path| path.exists());
    for stage in stages.iter().filter(|stage| !done(stage)) {
        let device = match stage.name {
            "pretrain" => recipe.pretrain.device,
            "align" => recipe.align.rejection.device,
            "eval-base" | "eval-chat" => recipe.eval.instructions.device,
            _ => continue,
        };
        device.open().with_context(|| format!("stage `{}`", stage.name))?;
    }
    Ok(())
}

/// The run folder that the command line or the recipe names.
pub fn run_folder(args: &RunArgs, recipe: &Recipe) -> RunFolder {
    RunFolder::at(args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name)))
}

/// What the stages `data` and `tokenizer` may use of this machine.
pub fn resources(args: &RunArgs) -> Resources {
    let all = Resources::default();
    Resources { memory: args.memory.unwrap_or(all.memory), ..all }
}

/// Records that the stage `data` is done, if its tasks were done one by one, so that `herd run` goes on after it.
pub fn record_data(args: &RunArgs, recipe: &Recipe) -> anyhow::Result<()> {
    let folder = run_folder(args, recipe);
    let mut manifest = Manifest::open(folder.root(), &recipe.name)?;
    stages::record(data(recipe, &folder, resources(args))?, &mut manifest)
}

/// The first stage.
fn data<'a>(recipe: &'a Recipe, folder: &'a RunFolder, resources: Resources) -> anyhow::Result<Stage<'a>> {
    let crawl = recipe.data.archives()?;
    let lists = recipe.data.blocked_domains.iter().chain(&recipe.data.dirty_words.list);
    let lists = lists.chain(recipe.data.dirty_words.lists.values());
    let lists = lists.map(|path| ("list", path.clone()));
    let mut benchmarks = Vec::new();
    for benchmark in &recipe.data.decontamination.benchmarks {
        benchmarks.extend(benchmark.paths()?.into_iter().map(|path| ("benchmark", path)));
    }
    let models = recipe.data.classifiers.iter().map(|c| ("classifier", c.model.clone()));
    Ok(Stage {
        name: "data",
        title: "clean, de-duplicate and label the crawl",
        settings: json!(recipe.data),
        inputs: crawl
            .into_iter()
            .map(|path| ("crawl", path))
            .chain(lists)
            .chain(models)
            .chain(benchmarks)
            .collect(),
        outputs: vec![folder.data()],
        work: Box::new(move |ctx| {
            Ok(herd_data::run(&recipe.data, &folder.data(), &resources, ctx).map(drop)?)
        }),
    })
}

/// The stages after it, in the order in which each finds its inputs made.
fn after_data<'a>(recipe: &'a Recipe, folder: &'a RunFolder, resources: Resources) -> Vec<Stage<'a>> {
    vec![
        Stage {
            name: "tokenizer",
            title: "train the byte-level BPE tokenizer",
            settings: json!(recipe.tokenizer),
            inputs: vec![("documents", folder.documents())],
            outputs: vec![folder.tokenizer()],
            work: Box::new(move |ctx| {
                let (settings, documents, out) = (&recipe.tokenizer, folder.documents(), folder.tokenizer());
                Ok(herd_data::tokenizer_stage::run(settings, &documents, &out, resources.memory, ctx)
                    .map(drop)?)
            }),
        },
        Stage {
            name: "shards",
            title: "write token shards by domain",
            settings: json!(recipe.shards),
            inputs: vec![("documents", folder.documents()), ("tokenizer", folder.tokenizer())],
            outputs: vec![folder.shards()],
            work: Box::new(|ctx| {
                let (documents, tokenizer) = (folder.documents(), folder.tokenizer());
                let settings = &recipe.shards;
                Ok(herd_data::shards::run(settings, &documents, &tokenizer, &folder.shards(), ctx)
                    .map(drop)?)
            }),
        },
        Stage {
            name: "pretrain",
            title: "pre-train, extend the context, anneal and average",
            settings: json!({ "model": recipe.model, "pretrain": recipe.pretrain.of_outcome() }),
            inputs: vec![("tokenizer", folder.tokenizer()), ("shards", folder.shards())],
            outputs: vec![folder.pretrain(), folder.model("base")],
            work: Box::new(|ctx| {
                let tokenizer = Tokenizer::load(folder.tokenizer())?;
                let specials = tokenizer.specials();
                let ends = vec![specials.end_of_text, specials.eot];
                let model = recipe.model.config(tokenizer.vocab_size(), specials.bos, ends);
                let (shards, tokenizer, base) = (folder.shards(), folder.tokenizer(), folder.model("base"));
                let (settings, out) = (&recipe.pretrain, folder.pretrain());
                Ok(herd_train::pretrain::run(settings, model, &shards, &tokenizer, &out, &base, ctx)
                    .map(drop)?)
            }),
        },
        evaluation(recipe, folder, "eval-base", "evaluate the base model", "base"),
        Stage {
            name: "align",
            title: "reward model, rejection sampling, SFT, DPO",
            settings: json!(recipe.align),
            inputs: vec![("base", folder.model("base")), ("data", recipe.align.data.clone())],
            outputs: ["reward", "sft", "chat"]
                .map(|m| folder.model(m))
                .into_iter()
                .chain([folder.align()])
                .collect(),
            work: Box::new(|ctx| {
                let (base, out, models) = (folder.model("base"), folder.align(), folder.models());
                let (settings, data) = (&recipe.align, &recipe.align.data);
                Ok(herd_align::run(settings, &base, &folder.tokenizer(), data, &out, &models, ctx)
                    .map(drop)?)
            }),
        },
        evaluation(recipe, folder, "eval-chat", "evaluate the chat model", "chat"),
    ]
}

/// The evaluation of one model of the run.
fn evaluation<'a>(
    recipe: &'a Recipe,
    folder: &'a RunFolder,
    name: &'static str,
    title: &'static str,
    model: &'static str,
) -> Stage<'a> {
    let files = recipe.eval.choices.files.iter().chain(&recipe.eval.instructions.file).cloned();
    Stage {
        name,
        title,
        settings: json!(recipe.eval),
        inputs: [("model", folder.model(model)), ("shards", folder.shards())]
            .into_iter()
            .chain(files.map(|path| ("examples", path)))
            .collect(),
        outputs: vec![folder.eval(model)],
        work: Box::new(move |ctx| {
            let (weights, shards, out) = (folder.model(model), folder.shards(), folder.eval(model));
            Ok(herd_eval::run(&recipe.eval, &weights, &shards, &out, ctx).map(drop)?)
        }),
    }
}
