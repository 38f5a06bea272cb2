-- What runs cost: a limit that a user sets for one run, and a ledger that remembers what was spent when task, project and
-- runs are gone.

alter table public.runs add column max_cost_usd numeric
    constraint runs_max_cost_usd_check check (max_cost_usd > 0 and max_cost_usd < 1000000);
comment on column public.runs.max_cost_usd is 'what its user allows; the executor never lets it cost more than the deployment does';

-- One row per run that has ended. It names task, project and run, which may be gone by then.
create table public.spending (
    run_id uuid primary key,
    user_id uuid not null constraint spending_user_id_fkey references public.users (id) on delete cascade,
    task_id bigint not null,
    project_id bigint,
    at timestamptz not null default now(),
    agent text not null,
    model text,
    cost_usd numeric,                         -- null: tokens were used whose price is not known
    input_tokens bigint not null default 0,   -- without those read from or written to the cache
    cached_input_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    output_tokens bigint not null default 0
);
create index idx_spending_user_id on public.spending (user_id, at desc);

alter table public.spending enable row level security;
create policy "Users can view own spending" on public.spending for select to authenticated
    using ((select auth.uid()) = user_id);
revoke all on public.spending from anon, authenticated;
grant select on public.spending to authenticated;
grant all on public.spending to service_role;

-- A run as a row of the ledger; one that never came to its agent has spent nothing.
create function public.spending_of(p_run public.runs) returns public.spending
language sql stable set search_path = '' as $$
    select p_run.id, p_run.user_id, p_run.task_id,
        (select t.project_id from public.tasks t where t.id = p_run.task_id),
        now(), p_run.agent, coalesce(p_run.usage ->> 'model', p_run.model),
        case when p_run.usage ? 'cost_usd' then (p_run.usage ->> 'cost_usd')::numeric else 0 end,
        coalesce((p_run.usage ->> 'input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cached_input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cache_write_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'output_tokens')::bigint, 0)
$$;

-- Triggers, so that no way to end a run is forgotten: a run may also be deleted, with its project, in the middle of its work.
create function public.record_spending() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs := case when tg_op = 'DELETE' then old else new end;
begin
    -- Where it goes with its user, nobody is left to ask.
    if exists (select 1 from public.users u where u.id = v_run.user_id) then
        insert into public.spending select (public.spending_of(v_run)).* on conflict (run_id) do nothing;
    end if;
    return v_run;
end $$;

create trigger record_spending_of_ended_run after update of status on public.runs for each row
    when (old.status in ('queued', 'running') and new.status not in ('queued', 'running'))
    execute function public.record_spending();
create trigger record_spending_of_deleted_run before delete on public.runs for each row
    when (old.status in ('queued', 'running'))
    execute function public.record_spending();

-- Another run of a task may cost what the one before might.
create function public.inherit_max_cost() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.max_cost_usd := (
        select r.max_cost_usd from public.runs r where r.task_id = new.task_id order by r.created_at desc limit 1);
    return new;
end $$;

create trigger inherit_max_cost before insert on public.runs for each row
    when (new.max_cost_usd is null and new.kind <> 'first')
    execute function public.inherit_max_cost();

-- What the caller has spent from p_from up to p_to, on all projects or one: {"runs", "unpriced_runs", "cost_usd",
-- "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "by_agent": [...], "by_day": [...]}. The
-- entries of both lists have the same keys and "agent" or "day" (UTC, when the run ended). `cost_usd` leaves out what
-- unpriced runs cost. Runs that are still active count as of now. Row-level security decides here, too.
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

-- Replaced rather than overloaded: PostgREST must find exactly one function of a name for the arguments it is given.
drop function public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text);

-- A task with its first run, its sealed git token and its first event. A repeated idempotency key returns what the first
-- call made. PT404: the project is not the caller's. PT409: another request was made under this key. PT429: a limit.
create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null, p_max_cost_usd numeric default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_run public.runs;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_project_id is not null
        and not exists (select 1 from public.projects p where p.id = p_project_id and p.user_id = v_user) then
        raise sqlstate 'PT404' using message = 'project_not_found';
    end if;
    insert into public.tasks (user_id, project_id, repo_url, target_branch, agent, chat_messages)
    values (
        v_user, p_project_id, p_repo_url, p_branch, p_agent,
        jsonb_build_array(public.chat_message('user', p_prompt)))
    returning * into v_task;
    v_run := public.insert_run(
        v_task.id, 'first', p_prompt, p_agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    update public.runs set request_hash = p_request_hash, max_cost_usd = p_max_cost_usd where id = v_run.id;
    return jsonb_build_object('task_id', v_task.id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

revoke all on function
    public.spending_of(public.runs),
    public.record_spending(),
    public.inherit_max_cost(),
    public.usage_totals(timestamptz, timestamptz, bigint),
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric)
    from public, anon, authenticated;
grant execute on function
    public.spending_of(public.runs),
    public.usage_totals(timestamptz, timestamptz, bigint),
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric)
    to authenticated;
grant execute on function public.spending_of(public.runs) to service_role;
