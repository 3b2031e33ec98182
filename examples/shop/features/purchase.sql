-- Will this visitor buy soon? One row over the last half hour of their history.
-- The half hour keeps the features alike for a visitor of ten minutes and one
-- of ten years; times are in seconds, prices in the shop's currency.
WITH trig AS (
    SELECT seq, name, item, category, price
    FROM events
    WHERE event_id = @event_id
    ORDER BY seq DESC
    LIMIT 1
)
SELECT
    count(*) FILTER (WHERE e.name = 'view')                            AS views,
    count(*) FILTER (WHERE e.name = 'view'
                     AND e.ts > @now - duration('2m'))                 AS views_2m,
    count(*) FILTER (WHERE e.name = 'cart')                            AS carts,
    count(*) FILTER (WHERE e.name = 'purchase')                        AS purchases,
    count(DISTINCT e.item)                                             AS items,
    count(DISTINCT e.category)                                         AS categories,
    count(*) FILTER (WHERE e.name = 'view' AND e.item = trig.item)     AS item_views,
    count(*) FILTER (WHERE e.name = 'cart' AND e.item = trig.item)     AS item_carts,
    count(*) FILTER (WHERE e.name = 'purchase'
                     AND e.item = trig.item)                           AS item_purchases,
    (@now - max(e.ts) FILTER (WHERE e.seq < trig.seq)) / 1000.0        AS gap_s,
    (@now - min(e.ts)) / 1000.0                                        AS visit_s,
    (@now - max(e.ts) FILTER (WHERE e.name = 'cart')) / 1000.0         AS since_cart_s,
    (@now - max(e.ts) FILTER (WHERE e.name = 'purchase')) / 1000.0     AS since_purchase_s,
    trig.price                                                         AS price,
    trig.price / median(e.price) FILTER (WHERE e.price > 0)            AS price_to_seen,
    trig.price / (SELECT c.typical_price FROM categories AS c
                  WHERE c.category = trig.category)                    AS price_to_category,
    (SELECT c.buy_rate FROM categories AS c
     WHERE c.category = trig.category)                                 AS category_buy_rate
FROM events AS e, trig
WHERE e.ts > @now - duration('30m') AND e.name IN ('view', 'cart', 'purchase')
