//! The book: for each product and unit, what came in and what went out.

use obelisk_contract::prelude::*;

fn key(product: &str, unit: &str) -> String {
    ["book/", product, "/", unit].concat()
}

/// Adds to a column: created, made, used or removed.
pub fn add(product: &str, unit: &str, column: &str, quantity: u64) -> Result<(), Refusal> {
    let key = key(product, unit);
    let mut book = Record::load(&key).unwrap_or_default();
    let Some(sum) = book.number(column).checked_add(quantity) else {
        return refuse("quantity: the book's sum would exceed the largest number");
    };
    book.set_number(column, sum).store(&key);
    Ok(())
}

pub fn show(args: &Args) -> Answer {
    args.count(2, "book(product, unit)")?;
    let book = Record::require(&key(args.name(0, "product")?, args.name(1, "unit")?))?;
    let (created, made) = (book.number("created"), book.number("made"));
    let (used, removed) = (book.number("used"), book.number("removed"));
    let present = u128::from(created) + u128::from(made) - u128::from(used) - u128::from(removed);
    let Ok(present) = u64::try_from(present) else {
        return refuse("the sum exceeds the largest number");
    };
    Json::object()
        .number("created", created)
        .number("made", made)
        .number("used", used)
        .number("removed", removed)
        .number("present", present)
        .answer()
}
