-- 1 when the visitor buys within the horizon, else 0: one row, one column.
-- `events` holds what came after the request; @now and @horizon are milliseconds.
SELECT count(*) > 0 AS label
FROM events
WHERE name = 'purchase' AND ts <= @now + @horizon
