-- What a user reads that is more than a row. All but run_progress run as their caller, under row-level security.

-- A page of the caller's tasks, newest first, whether more follow, and the number of all:
-- {"tasks": [...], "more": true, "total": n}. A page begins after the task that p_after_at and p_after_id name. It has
-- p_limit tasks, or fewer (at least one) where these are more than Lambda can send (6 MB). Rows have every key of the wire
-- contract. Lists stay fast whatever the tasks hold: an index finds the page, and diff, patch and metadata are left empty
-- because they are not read.
create function public.list_tasks(
    p_limit integer, p_after_at timestamptz default null, p_after_id bigint default null,
    p_status public.task_status default null, p_project_id bigint default null, p_search text default null
) returns jsonb
language plpgsql stable set search_path = ''
-- Each filter may be absent: a generic plan could not find the position of a page in an index.
set plan_cache_mode = force_custom_plan as $$
declare
    v_user uuid := auth.uid();
    v_limit integer := least(p_limit, 1000);
    v_search text := lower(p_search);
    v_answer jsonb;
begin
    with matching as not materialized (
        select * from public.tasks
        where user_id = v_user
            and (p_status is null or status = p_status)
            and (p_project_id is null or project_id = p_project_id)
            and (p_search is null or exists (
                select 1 from jsonb_array_elements(chat_messages) as m (message)
                where m.message ->> 'role' = 'user' and position(v_search in lower(m.message ->> 'content')) > 0))
    ), page as (
        select created_at, id, jsonb_build_object(
            'id', id, 'user_id', user_id, 'project_id', project_id, 'status', status, 'agent', agent,
            'repo_url', repo_url, 'target_branch', target_branch, 'pr_branch', pr_branch,
            'container_id', container_id, 'commit_hash', commit_hash, 'pr_number', pr_number, 'pr_url', pr_url,
            'git_diff', null, 'git_patch', null, 'changed_files', changed_files, 'error', error,
            'chat_messages', chat_messages, 'execution_metadata', '{}'::jsonb, 'created_at', created_at,
            'updated_at', updated_at, 'started_at', started_at, 'completed_at', completed_at,
            'is_test_data', is_test_data, 'has_patch', has_patch
        ) as task
        from matching
        where p_after_id is null or (created_at, id) < (p_after_at, p_after_id)
        order by created_at desc, id desc
        limit v_limit + 1
    ), numbered as (
        select task, row_number() over w as n, sum(octet_length(task::text)) over w as bytes
        from page
        window w as (order by created_at desc, id desc)
    )
    select jsonb_build_object(
        'tasks', coalesce(jsonb_agg(task order by n) filter (where fits), '[]'::jsonb),
        'more', coalesce(not bool_and(fits), false),
        'total', (select count(*) from matching)
    ) into v_answer
    from (select task, n, n = 1 or (n <= v_limit and bytes <= 6000000) as fits from numbered) as r;
    return v_answer;
end $$;

-- The caller's projects, newest first, or the one with this id: an array of rows, each with the number of its tasks.
create function public.list_projects(p_id bigint default null) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(to_jsonb(p) || to_jsonb(c) order by p.created_at desc, p.id desc), '[]'::jsonb)
    from public.projects p
    cross join lateral (
        select count(*) as task_count,
            count(*) filter (where t.status = 'completed') as completed_tasks,
            count(*) filter (where t.status in ('pending', 'running')) as active_tasks
        from public.tasks t where t.project_id = p.id and t.user_id = p.user_id
    ) c
    where p.user_id = (select auth.uid()) and (p_id is null or p.id = p_id)
$$;

-- The newest run of a task of the caller: {"run_id", "phase", "queue_position"}, each null where there is none. `phase` is
-- set while the run is active. `queue_position` is set while it is queued: how many runs, of any user, get a sandbox before
-- it as things are; see next_to_start.
create function public.run_progress(p_task_id bigint) returns jsonb
language sql stable security definer set search_path = '' as $$
    select coalesce((
        select jsonb_build_object(
            'run_id', r.id,
            'phase', case when r.status in ('queued', 'running') then r.phase end,
            'queue_position', case when r.status = 'queued' then (
                with busy as (
                    select b.user_id, count(*) as sandboxes from public.runs b where b.status = 'running' group by b.user_id
                ), line as (
                    select q.id, q.created_at,
                        coalesce(b.sandboxes, 0)
                            + row_number() over (partition by q.user_id order by q.created_at, q.id) as nth
                    from public.runs q left join busy b on b.user_id = q.user_id where q.status = 'queued'
                )
                select count(*) from line other, line own
                where own.id = r.id and (other.nth, other.created_at, other.id) < (own.nth, own.created_at, own.id)) end)
        from public.runs r where r.task_id = p_task_id and r.user_id = auth.uid()
        order by r.created_at desc limit 1
    ), '{"run_id": null, "phase": null, "queue_position": null}'::jsonb)
$$;

-- The run whose files the caller's task shows: the newest that was completed or has left any.
create function public.run_with_files(p_task_id bigint) returns uuid
language sql stable set search_path = '' as $$
    select r.id from public.runs r
    where r.task_id = p_task_id and r.user_id = (select auth.uid())
        and (r.status = 'completed' or exists (select 1 from public.task_files f where f.run_id = r.id))
    order by r.created_at desc limit 1
$$;

-- What the caller has spent from p_from up to p_to, on all projects or one: {"runs", "unpriced_runs", "cost_usd",
-- "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "by_agent": [...], "by_day": [...]}. The
-- entries of both lists have the same keys and "agent" or "day" (UTC, when the run ended). `cost_usd` leaves out the cost of
-- unpriced runs. Active runs count as of now.
create function public.usage_totals(p_from timestamptz, p_to timestamptz default null, p_project_id bigint default null)
returns jsonb
language sql stable set search_path = '' as $$
    with spent as (
        select s.* from public.spending s
        where s.user_id = (select auth.uid()) and s.at >= p_from and (p_to is null or s.at < p_to)
        union all
        select a.*
        from public.runs r cross join lateral public.spending_of(r) as a
        where r.user_id = (select auth.uid()) and r.status in ('queued', 'running')
            and now() >= p_from and (p_to is null or now() < p_to)
    ), sums as (
        select s.agent, d.day, grouping(s.agent) = 0 as of_agent, grouping(d.day) = 0 as of_day,
            jsonb_build_object(
                'runs', count(*), 'unpriced_runs', count(*) filter (where s.cost_usd is null),
                'cost_usd', coalesce(sum(s.cost_usd), 0), 'input_tokens', coalesce(sum(s.input_tokens), 0),
                'cached_input_tokens', coalesce(sum(s.cached_input_tokens), 0),
                'cache_write_tokens', coalesce(sum(s.cache_write_tokens), 0),
                'output_tokens', coalesce(sum(s.output_tokens), 0)) as total
        from spent s cross join lateral (select (s.at at time zone 'utc')::date as day) d
        where p_project_id is null or s.project_id = p_project_id
        group by grouping sets ((), (s.agent), (d.day))
    )
    select (select total from sums where not of_agent and not of_day) || jsonb_build_object(
        'by_agent', coalesce((
            select jsonb_agg(jsonb_build_object('agent', agent) || total order by agent)
            from sums where of_agent), '[]'::jsonb),
        'by_day', coalesce((
            select jsonb_agg(jsonb_build_object('day', day) || total order by day)
            from sums where of_day), '[]'::jsonb))
$$;

revoke all on function
    public.list_tasks, public.list_projects, public.run_progress, public.run_with_files, public.usage_totals
    from public, anon, authenticated;
grant execute on function
    public.list_tasks, public.list_projects, public.run_progress, public.run_with_files, public.usage_totals
    to authenticated;
