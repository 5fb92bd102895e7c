//! Pure placement: filter candidates, score them in money, choose, explain
