-- Is this visitor about to leave? The pace of the last half hour, in seconds.
WITH trig AS (
    SELECT seq, name, item, category, price
    FROM events
    WHERE event_id = @event_id
    ORDER BY seq DESC
    LIMIT 1
)
SELECT
    count(*)                                                           AS events,
    count(*) FILTER (WHERE e.ts > @now - duration('1m'))               AS events_1m,
    count(*) FILTER (WHERE e.ts > @now - duration('5m'))               AS events_5m,
    count(*) FILTER (WHERE e.name = 'cart')                            AS carts,
    count(*) FILTER (WHERE e.name = 'purchase')                        AS purchases,
    count(DISTINCT e.item)                                             AS items,
    count(DISTINCT e.category)                                         AS categories,
    count(*) FILTER (WHERE e.item = trig.item)                         AS item_events,
    (@now - max(e.ts) FILTER (WHERE e.seq < trig.seq)) / 1000.0        AS gap_s,
    (max(e.ts) - min(e.ts)) / 1000.0 / nullif(count(*) - 1, 0)         AS mean_gap_s,
    (@now - min(e.ts)) / 1000.0                                        AS visit_s,
    (@now - max(e.ts) FILTER (WHERE e.name = 'purchase')) / 1000.0     AS since_purchase_s,
    trig.name = 'cart'                                                 AS at_cart,
    trig.price                                                         AS price,
    stddev(e.price) / avg(e.price)                                     AS price_spread
FROM events AS e, trig
WHERE e.ts > @now - duration('30m') AND e.name IN ('view', 'cart', 'purchase')
