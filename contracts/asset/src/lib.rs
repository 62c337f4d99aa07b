//! Accounts with whole balances: the plain transfer that load is measured with.
//!
//! - `open(account, balance)`: opens an account that anyone may move
//! - `open(account, balance, owned)`: opens an account that only its owner, the caller, may move
//! - `open_many(prefix, first, count, balance)`: opens `prefix0`, `prefix1`, ... as the first form
//!   does, at most 1000
//! - `transfer(from, to, amount)`: moves an amount; reads two keys, writes two keys
//! - `transfer(from, to, amount, padding)`: the same; the padding brings a load to its payload size
//! - `balance(account)`: the balance as a number
//! - `show(account)`: the account as JSON
//!
//! Deployed with the init argument `issuer`, an organisation, only that organisation's members open
//! accounts with more than 0, so that nobody makes money. Deployed without, everyone may: a load
//! generator has no issuer.
//!
//! State: `account/NAME` holds the balance as a number, or `{"balance":..,"owner":".."}`; `issuer`
//! holds the organisation.

#![cfg_attr(target_arch = "wasm32", no_std)]

use obelisk_contract::json;
use obelisk_contract::prelude::*;

contract! {
    init => init,
    "open" => open,
    "open_many" => open_many,
    "transfer" => transfer,
    "balance" => balance,
    "show" => show,
}

/// Accounts of one `open_many`.
const OPEN_MANY_MAX: u64 = 1000;

struct Account {
    balance: u64,
    owner: Option<String>,
}

fn init(args: &Args) -> Answer {
    args.between(0, 1, "no arguments, or the issuer's organisation")?;
    if !args.is_empty() {
        state::put("issuer", args.name(0, "issuer")?);
    }
    text("")
}

fn open(args: &Args) -> Answer {
    args.between(2, 3, "open(account, balance) or open(account, balance, owned)")?;
    let balance = args.number(1, "balance")?;
    let owner = match args.bytes(2) {
        b"" => None,
        b"owned" => Some(chain::caller().full_name()),
        _ => return refuse("the third argument of open is the word owned"),
    };
    may_issue(balance)?;
    create(args.name(0, "account")?, &Account { balance, owner })?;
    text("")
}

fn open_many(args: &Args) -> Answer {
    args.count(4, "open_many(prefix, first, count, balance)")?;
    let prefix = args.name(0, "prefix")?;
    let (first, count) = (args.number(1, "first")?, args.number(2, "count")?);
    let balance = args.number(3, "balance")?;
    require(count <= OPEN_MANY_MAX, "count: at most 1000 accounts in one transaction")?;
    require(prefix.len() <= 40, "prefix: at most 40 letters")?;
    may_issue(balance)?;
    for number in 0..count {
        let mut name = String::from(prefix);
        let Some(number) = first.checked_add(number) else { return refuse("first: too large") };
        json::push_number(&mut name, number);
        create(&name, &Account { balance, owner: None })?;
    }
    text("")
}

fn transfer(args: &Args) -> Answer {
    args.between(3, 4, "transfer(from, to, amount)")?;
    let (from, to) = (args.name(0, "from")?, args.name(1, "to")?);
    let amount = args.number(2, "amount")?;
    require(from != to, "from and to are the same account")?;
    let mut payer = load(from)?;
    let mut payee = load(to)?;
    if let Some(owner) = &payer.owner
        && *owner != chain::caller().full_name()
    {
        return refuse(["the account ", from, " belongs to ", owner].concat());
    }
    match payer.balance.checked_sub(amount) {
        Some(rest) => payer.balance = rest,
        None => {
            let mut text = ["the account ", from, " has "].concat();
            json::push_number(&mut text, payer.balance);
            text.push_str(", less than ");
            json::push_number(&mut text, amount);
            return refuse(text);
        }
    }
    match payee.balance.checked_add(amount) {
        Some(sum) => payee.balance = sum,
        None => return refuse("the balance would exceed the largest number"),
    }
    save(from, &payer);
    save(to, &payee);
    text("")
}

fn balance(args: &Args) -> Answer {
    args.count(1, "balance(account)")?;
    let mut text = String::new();
    json::push_number(&mut text, load(args.name(0, "account")?)?.balance);
    Ok(text.into_bytes())
}

fn show(args: &Args) -> Answer {
    args.count(1, "show(account)")?;
    let name = args.name(0, "account")?;
    let account = load(name)?;
    let json = Json::object().text("account", name).number("balance", account.balance);
    match &account.owner {
        Some(owner) => json.text("owner", owner).answer(),
        None => json.answer(),
    }
}

fn may_issue(balance: u64) -> Result<(), Refusal> {
    if balance == 0 {
        return Ok(());
    }
    match state::get("issuer") {
        Some(issuer) if issuer != chain::caller().organisation.as_bytes() => {
            let issuer = String::from_utf8_lossy(&issuer).into_owned();
            refuse(["only members of ", &issuer, " open accounts with more than 0"].concat())
        }
        _ => Ok(()),
    }
}

fn key(name: &str) -> String {
    ["account/", name].concat()
}

fn create(name: &str, account: &Account) -> Result<(), Refusal> {
    if state::get(key(name)).is_some() {
        return refuse(["the account ", name, " exists"].concat());
    }
    save(name, account);
    Ok(())
}

fn load(name: &str) -> Result<Account, Refusal> {
    let Some(bytes) = state::get(key(name)) else {
        return refuse(["there is no account ", name].concat());
    };
    if let Some(balance) = json::number(&bytes) {
        return Ok(Account { balance, owner: None });
    }
    let record = Record::parse(&bytes).expect("accounts are written by this contract");
    Ok(Account { balance: record.number("balance"), owner: Some(record.text("owner").into()) })
}

fn save(name: &str, account: &Account) {
    let mut text = String::new();
    match &account.owner {
        None => json::push_number(&mut text, account.balance),
        Some(owner) => {
            text = Json::object().number("balance", account.balance).text("owner", owner).finish();
        }
    }
    state::put(key(name), text);
}

#[cfg(test)]
mod tests;
