//! What is done to goods: split, merge, transform. Quantity is conserved in each.

use obelisk_contract::prelude::*;

use crate::Lot;
use crate::book;
use crate::done;
use crate::trader;

/// Lots that one transaction splits into, merges or uses.
const LOTS_MAX: usize = 16;
/// Largest declared yield: a thousandfold, as for units of another size.
const PERMILLE_MAX: u64 = 1_000_000;

pub fn declare(args: &Args) -> Answer {
    args.count(5, "declare(recipe, product, unit, input unit, permille)")?;
    let name = args.name(0, "recipe")?;
    let key = ["recipe/", name].concat();
    require(state::get(&key).is_none(), "a recipe of this name exists; yields cannot change")?;
    let permille = args.number(4, "permille")?;
    require((1..=PERMILLE_MAX).contains(&permille), "permille: from 1 to 1000000")?;
    let mut recipe = Record::new();
    recipe
        .set_text("product", args.name(1, "product")?)
        .set_text("unit", args.name(2, "unit")?)
        .set_text("input-unit", args.name(3, "input unit")?)
        .set_number("permille", permille)
        .set_text("owner", &trader()?);
    recipe.store(&key);
    done("declared", name)
}

pub fn split(args: &Args) -> Answer {
    let form = "split(lot, new lot, quantity, new lot, quantity, ...), 2 to 16 parts";
    args.between(5, 1 + 2 * LOTS_MAX, form)?;
    require(args.len() % 2 == 1, "split: each new lot needs its quantity")?;
    let mut lot = Lot::held(args.name(0, "lot")?)?;
    let mut names = Vec::new();
    let mut sum = 0_u64;
    for at in (1..args.len()).step_by(2) {
        let (name, quantity) = (args.name(at, "new lot")?, args.number(at + 1, "quantity")?);
        let Some(more) = sum.checked_add(quantity) else { return refuse("quantity: too large") };
        sum = more;
        Lot::new(name, lot.product(), quantity, lot.unit(), "split", &[&lot.name])?;
        names.push(name);
    }
    require(sum == lot.quantity(), "the parts must add up to the lot's quantity")?;
    lot.close("split", &names.join(","));
    done("split", &lot.name)
}

pub fn merge(args: &Args) -> Answer {
    args.between(3, 1 + LOTS_MAX, "merge(new lot, lot, lot, ...), 2 to 16 lots")?;
    let name = args.name(0, "new lot")?;
    let mut lots = inputs(args, 1)?;
    let (product, unit) = (lots[0].product().to_owned(), lots[0].unit().to_owned());
    let alike = lots.iter().all(|lot| lot.product() == product && lot.unit() == unit);
    require(alike, "only lots of one product and unit can be merged")?;
    let sum = total(&lots)?;
    let sources: Vec<String> = lots.iter().map(|lot| lot.name.clone()).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    Lot::new(name, &product, sum, &unit, "merge", &sources)?;
    for lot in &mut lots {
        lot.close("merged", name);
    }
    done("merged", name)
}

pub fn transform(args: &Args) -> Answer {
    args.between(4, 3 + LOTS_MAX, "transform(new lot, recipe, quantity, lot, ...), 1 to 16 lots")?;
    let name = args.name(0, "new lot")?;
    let recipe_name = args.name(1, "recipe")?;
    let recipe = Record::require(&["recipe/", recipe_name].concat())?;
    let owner = recipe.text("owner");
    require(owner == trader()?, ["the recipe belongs to ", owner].concat())?;
    let quantity = args.number(2, "quantity")?;
    let mut lots = inputs(args, 3)?;
    let unit = recipe.text("input-unit");
    let measured = lots.iter().all(|lot| lot.unit() == unit);
    require(measured, ["the recipe takes lots measured in ", unit].concat())?;
    let input = total(&lots)?;
    let most = u128::from(input) * u128::from(recipe.number("permille")) / 1000;
    require(
        u128::from(quantity) <= most,
        "quantity: more than the declared yield gives from these lots",
    )?;
    let sources: Vec<String> = lots.iter().map(|lot| lot.name.clone()).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let (product, made_unit) = (recipe.text("product"), recipe.text("unit"));
    let mut made = Lot::new(name, product, quantity, made_unit, "transform", &sources)?;
    let loss = u64::try_from(most - u128::from(quantity)).unwrap_or(u64::MAX);
    made.record.set_text("recipe", recipe_name).set_number("below-yield", loss);
    made.store();
    book::add(product, made_unit, "made", quantity)?;
    for lot in &mut lots {
        book::add(lot.product(), lot.unit(), "used", lot.quantity())?;
        lot.close("used", name);
    }
    done("transformed", name)
}

/// The lots named from `from` on, each held by the caller and named once.
fn inputs(args: &Args, from: usize) -> Result<Vec<Lot>, Refusal> {
    let mut lots: Vec<Lot> = Vec::new();
    for at in from..args.len() {
        let name = args.name(at, "lot")?;
        require(lots.iter().all(|lot| lot.name != name), "a lot is named twice")?;
        lots.push(Lot::held(name)?);
    }
    Ok(lots)
}

fn total(lots: &[Lot]) -> Result<u64, Refusal> {
    let sum = lots.iter().try_fold(0_u64, |sum, lot| sum.checked_add(lot.quantity()));
    match sum {
        Some(sum) => Ok(sum),
        None => refuse("quantity: the sum is too large"),
    }
}
